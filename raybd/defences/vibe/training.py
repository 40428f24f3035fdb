"""VIBE's training: features, filter, then EM."""

import math

import torch
from torch import Tensor

from raybd.defences.base import ENCODER, FLAGGED, SUSPICION, TrainingContext
from raybd.defences.cost import Cost
from raybd.defences.vibe.em import CHUNK, Em, FrozenFeatures, check_features
from raybd.defences.vibe.heads import LinearNetwork, VibeNetwork
from raybd.defences.vibe.settings import VibeSettings
from raybd.defences.vibe.source import TrainableFeatures
from raybd.defences.vibe.sources import Source, read_rows
from raybd.errors import DivergedError
from raybd.pretraining import frozen_features, pretrain_once
from raybd.pretraining.linear_probe import fit_linear
from raybd.seeds import forked_rng
from raybd.training import Checkpoint, memory_format
from raybd.types import Images

PSEUDOLABEL = "pseudolabel"  # (N,) int64: the class that a training image is taken for; K where for none
FIRST_PSEUDOLABEL = "first_pseudolabel"  # (N,) int64: the same after the first E-step
ENOUGH = 1000  # M-steps without which the heads are not learnt, however small the set


class EmTraining:
    """The training of `network` on the images of `context` under way, from its checkpoint where there is one.

    It goes on by epochs of the trial, an epoch being its share of the iterations.
    """

    def __init__(
        self,
        settings: VibeSettings,
        context: TrainingContext,
        network: VibeNetwork,
        checkpoint: Checkpoint | None,
        cost: Cost | None = None,
    ) -> None:
        """`cost` is what the training adds to; by default its own."""
        self.settings, self.context, self.network, self.checkpoint = settings, context, network, checkpoint
        self.source: Source = settings.source
        network.to(memory_format=memory_format(context.train_config))
        state = checkpoint.load() if checkpoint is not None else None
        self.cost, self.first = cost or Cost(state), state["epoch"] + 1 if state else 1
        if state:
            network.load_state_dict(state["model"])
            self.kept = state["kept"]
        else:
            self._pretrain()
            self.kept = self._filtered()
        self.features = self._features()
        self.em = self._em()
        if state:
            self.em.restore(state["em"])
        else:
            self.em.start()

    def epoch(self, number: int) -> float:
        """The iterations of epoch `number`, and after the last what was found; the mean loss in nats.

        Raises:
            DivergedError: it is no number.
        """
        train_config, config = self.context.train_config, self.em.config
        if isinstance(self.features, TrainableFeatures):
            self.features.images = self._at(number, self.kept)
            self.features.begin(number)
        with forked_rng(self.context.seed, "network", number, device=self.context.images.x.device):
            loss = self.em.advance(config.iterations * number // train_config.epochs)
        if not math.isfinite(loss):
            raise DivergedError(f"the training loss is {loss} in epoch {number} of {train_config.epochs}")
        self.context.heartbeat()
        labels = self._report() if number == train_config.epochs else self.em.labels
        if isinstance(self.network, LinearNetwork):
            self._fit_linear(self.network, labels)
        return loss

    def save(self, number: int) -> None:
        """Keep the state after epoch `number`, which has been yielded; not after the last."""
        if self.checkpoint is not None and number < self.context.train_config.epochs:
            state = {"model": self.network.state_dict(), "em": self.em.state(), "kept": self.kept, "epoch": number}
            self.checkpoint.save(state | self.cost.state())

    def numbers(self) -> dict[str, float]:
        """What an epoch's report says of EM; concentrations as they enter the exponents."""
        em, heads = self.em, self.network.heads
        changed = float((em.labels != em.y).float().mean())
        numbers = {"vibe/relabelled": changed, "vibe/e_steps": float(em.steps)}
        numbers |= {"vibe/removed": 1 - len(self.kept) / len(self.context.images), "vibe/column_error": em.column_error}
        numbers |= {f"vibe/{name}": float(heads.concentration(getattr(heads, name))) for name in ("kappa", "nu")}
        return numbers if math.isnan(em.flips) else numbers | {"vibe/flip_rate": em.flips}

    @torch.no_grad()
    def content_labels(self) -> Tensor:
        """argmax p(l|x) (N,) of all training images, whatever their given labels say."""
        v = self._every(torch.arange(len(self.context.images)))
        return torch.cat([self.network.heads.clean_log(part).argmax(1) for part in v.split(CHUNK)])

    def _spend(self, images: float) -> None:
        self.cost.passes += images / len(self.context.images)

    def _at(self, epoch: int, index: Tensor) -> Images:
        return self.context.images.at(epoch).part(index.to(self.context.images.x.device))

    def _pretrain(self) -> None:
        images, classes = self.context.images, self.context.classes
        check_features(torch.zeros(len(images), 1), images.y, classes)  # before hours go into features
        if self.source.kind not in ("simclr", "nnclr"):
            return
        config = self.settings.pretraining(self.source.kind, self.settings.pretrain_epochs, images.shape)
        where = (self.context.seed, self.context.cache_folder, self.context.heartbeat)
        spent = pretrain_once(self.network.backbone, images.x, config, *where)
        self.cost.passes += 2 * len(spent.losses)  # two views an image
        self.cost.shared_seconds += spent.seconds if spent.reused else 0.0

    def _filtered(self) -> Tensor:
        """The images (N',) that stay."""
        every, score = torch.arange(len(self.context.images)), self.settings.outlier_filter
        if score == "off":
            return every
        from raybd.defences.vibe.filter import outliers  # its libraries take 2 s, which few trials need

        v = self._every(every).double().cpu().numpy()
        y, heartbeat = self.context.images.at(1).y.cpu().numpy(), self.context.heartbeat
        out = outliers(v, y, self.context.classes, score, self.context.seed, heartbeat=heartbeat)
        return torch.from_numpy(~out).nonzero()[:, 0]

    def _every(self, index: Tensor) -> Tensor:
        """The features (n, D) of the images `index` (n,) as they are, or in epoch 1 where an attacker renews them."""
        device = self.context.images.x.device
        if self.source.kind == "npy":
            return read_rows(self.source.file)[index].to(device)
        images = self._at(1, index)
        if self.source.learnt:
            return self._trainable(images).every()
        self._spend(len(images) / 3)
        folder, heartbeat = self.context.cache_folder, self.context.heartbeat
        return frozen_features(self.network.backbone, images.x, cache_folder=folder, heartbeat=heartbeat)

    def _trainable(self, images: Images) -> TrainableFeatures:
        context = self.context
        return TrainableFeatures(
            self.network, images, context.train_config, context.seed, context.heartbeat, self._spend
        )

    def _features(self) -> TrainableFeatures | FrozenFeatures:
        if self.settings.tuned:
            return self._trainable(self._at(self.first, self.kept))
        return FrozenFeatures(self._every(self.kept))

    def _em(self) -> Em:
        y = self.context.images.y[self.kept.to(self.context.images.y.device)]
        batches = math.ceil(len(y) / self.settings.batch_size)
        usual = max(ENOUGH, self.context.train_config.epochs * batches)
        config = self.settings.em(self.context.train_config, self.settings.iterations or usual)
        return Em(self.network.heads, self.features, y, config, self.context.seed)

    def _fit_linear(self, network: LinearNetwork, labels: Tensor) -> None:
        """Teach the linear head the pseudolabels of the images that have one."""
        assigned = labels < self.context.classes
        v, penalty, heartbeat = self.features.every()[assigned], self.settings.linear_penalty, self.context.heartbeat
        weight, bias = fit_linear(v, labels[assigned], self.context.classes, penalty, heartbeat)
        network.deploy(weight, bias)

    @torch.no_grad()
    def _report(self) -> Tensor:
        """Findings: suspicion is q(l != y|x, y); images of an outlier community are suspect whatever they hold.

        The pseudolabels (N',) of a fresh E-step, on the device.
        """
        n, kept, y = len(self.context.images), self.kept, self.em.y.cpu()
        q, found = self.em.posterior()
        labels, first = found.cpu(), self.em.first_labels.cpu()
        # summed, not 1 - q(y): small ones keep their order
        doubt = q.cpu().scatter(1, y[:, None], 0.0).sum(1).float()
        suspicion, flagged = torch.full((n,), 1.0), torch.ones(n, dtype=torch.bool)
        pseudolabel, first_label = torch.full((2, n), self.context.classes)
        suspicion[kept], flagged[kept], pseudolabel[kept], first_label[kept] = doubt, labels != y, labels, first
        what: dict[str, Tensor] = {SUSPICION: suspicion, FLAGGED: flagged}
        self.context.findings.update(what | {PSEUDOLABEL: pseudolabel, FIRST_PSEUDOLABEL: first_label})
        if self.source.kind != "npy":
            self.context.networks[ENCODER] = self.network.backbone
        return found
