"""VIBE: given labels are noisy readings of latent clean ones, which expectation-maximisation finds (arXiv:2503.08829).

Sabolic, Grcic and Segvic, "Seal Your Backdoor with Variational Defense", ICCV 2025. A poisoned image's content and
its label disagree; features that were learnt without labels side with the content.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from raybd.defences.base import FLAGGED, SUSPICION, Defence, TrainingContext
from raybd.defences.cost import Cost
from raybd.defences.vibe.em import Em, EmConfig, FrozenFeatures, Pseudolabels, check_features
from raybd.defences.vibe.encoder import ADDED, EncoderSettings
from raybd.defences.vibe.heads import Variant, VibeNetwork, wrapped
from raybd.defences.vibe.source import TrainableFeatures
from raybd.errors import DivergedError
from raybd.models import Classifier
from raybd.pretraining import pretrain_once
from raybd.seeds import forked_rng
from raybd.training import Epoch, memory_format
from raybd.types import Images
from raybd.utils.constraints import NonNegative, Positive

PSEUDOLABEL = "pseudolabel"  # (N,) int64: the class that a training image is taken for; K where for none
MANY, FEW_SHARP, MANY_SHARP = 30, 10.0, 20.0  # up to so many classes, concentrations are 10, beyond 20 (published)
ENOUGH = 1000  # M-steps without which the heads are not learnt, however small the set
RELATIVE = 3.0  # usual concentrations over the spread of the cosines
Deploy = Literal["head", "linear", "retrained"]


@dataclass(frozen=True, kw_only=True)
class Vibe(EncoderSettings, Defence):
    """Learns features without labels, then labels and prototypes in turn; momentum and weight decay are the trial's.

    The defaults are the published ones but for the number of iterations and E-steps, a tenth of it, with the learning
    rate that this takes. `deploy` "linear" and "retrained", relative concentrations and views other than the default
    ones are ours, not the paper's.
    """

    variant: Variant = "A"  # F: the given label may follow from the image itself
    features: Literal["simclr", "nnclr", "own"] = "simclr"  # own: the network's weights as they are
    pretrain_epochs: Annotated[int, Ge(1)] = 80
    tuned: bool = True  # whether the backbone is trained along
    outlier_filter: Literal["off", "distance", "composition"] = "off"  # distance: as published
    kappa: NonNegative = 0.0  # concentration of p(l|x); 0: 10 for up to 30 classes, else 20
    nu: NonNegative = 0.0  # of p(y|l,x); 0: likewise
    # relative: kappa and nu over the spread of the cosines of the features (`heads.cosine_spread`), with which one
    # setting means the same on every encoder
    kappa_unit: Literal["absolute", "relative"] = field(default="absolute", metadata=ADDED)
    sharpness: Positive = 25.0  # lambda of the E-step
    prior_scale: NonNegative = 0.02  # c: pi = softmax(c theta)
    prior_rate: NonNegative = 0.1  # learning rate of theta; with a large c it collapses
    iterations: Annotated[int, Ge(0)] = 0  # M-steps in all; 0: as many as the trial's epochs take, and 1000 or more
    e_steps: Annotated[int, Ge(1)] = 10  # spread evenly; too many take the poison back in
    learning_rate: Positive = 3e-3
    prototype_rate: Positive = 1.0  # times the learning rate
    batch_size: Annotated[int, Ge(2)] = 256
    freeze_eta: bool = False  # whether the corrupted prototypes stay
    pseudolabels: Pseudolabels = "hard"  # annealed: soft, lambda rising from 1
    unassigned: Annotated[float, Interval(ge=0, lt=1)] = 0.0  # share of the images that no class has to explain
    flip_stop: Annotated[float, Interval(ge=0, lt=1)] = 0.0  # E-steps end once one changes fewer of the labels

    # what is deployed: the paper's head; multinomial logistic regression of the pseudolabels on the features; or the
    # trial's network, trained from the start on the pseudolabels
    deploy: Deploy = field(default="head", metadata=ADDED)
    linear_penalty: Positive = field(default=1e-3, metadata=ADDED)  # of linear: on the weights' squares, halved
    retrain_epochs: Annotated[int, Ge(0)] = field(default=0, metadata=ADDED)  # of retrained; 0: as many as the trial's

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ss_a": {"variant": "A", "outlier_filter": "distance"},
        "ss_f": {"variant": "F", "outlier_filter": "distance"},
        "fm_a": {"variant": "A", "tuned": False, "iterations": 2000, "learning_rate": 0.01, "freeze_eta": True},
        "fm_f": {"variant": "F", "tuned": False, "iterations": 2000, "learning_rate": 0.01},
    }

    def network(self, model: nn.Module) -> VibeNetwork:
        """The clean head around the backbone `model`. Raises InputError where that does not tell its features."""
        classes = model.head.out_features if isinstance(model, Classifier) else 0
        relative = self.kappa_unit == "relative"
        usual = RELATIVE if relative else FEW_SHARP if classes <= MANY else MANY_SHARP
        return wrapped(model, self.variant, self.kappa or usual, self.nu or usual, self.prior_scale, relative)

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """Features, filter, then EM; an epoch is its share of the iterations."""
        run = _Run(self, context)
        for number in range(run.first, context.train_config.epochs + 1):
            yield run.epoch(number)
            run.save(number)

    def problems(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """Fewer than two classes."""
        found = [] if classes > 1 else [f"it needs 2 classes or more, got {classes}"]
        return found + [f"deploy {self.deploy} is not there yet"] * (self.deploy != "head")

    def em(self, context: TrainingContext, iterations: int) -> EmConfig:
        """The settings of the EM loop."""
        names = {f.name for f in fields(EmConfig)} & {f.name for f in fields(self)}
        settings = {name: getattr(self, name) for name in names} | {"iterations": iterations}
        return EmConfig(
            **settings, momentum=context.train_config.momentum, weight_decay=context.train_config.weight_decay
        )


class _Run:
    """One training under way."""

    def __init__(self, defence: Vibe, context: TrainingContext) -> None:
        self.defence, self.context = defence, context
        self.network = cast(VibeNetwork, context.model)
        self.network.to(memory_format=memory_format(context.train_config))
        state = context.checkpoint.load() if context.checkpoint is not None else None
        self.cost, self.first = Cost(state), state["epoch"] + 1 if state else 1
        if state:
            self.network.load_state_dict(state["model"])
            self.kept = state["kept"]
        else:
            self._pretrain()
            self.kept = self._filtered()
        self.source = self._source(self._at(self.first).part(self.kept.to(context.images.x.device)))
        self.em = self._em()
        if state:
            self.em.restore(state["em"])
        else:
            self.em.start()

    def epoch(self, number: int) -> Epoch:
        """The iterations of epoch `number`, and after the last what was found."""
        train_config, config = self.context.train_config, self.em.config
        if isinstance(self.source, TrainableFeatures):
            self.source.images = self._at(number).part(self.kept.to(self.source.images.x.device))
            self.source.begin(number)
        with forked_rng(self.context.seed, "network", number, device=self.context.images.x.device):
            loss = self.em.advance(config.iterations * number // train_config.epochs)
        if not math.isfinite(loss):
            raise DivergedError(f"the training loss is {loss} in epoch {number} of {train_config.epochs}")
        self.context.heartbeat()
        if number == train_config.epochs:
            self._report()
        return Epoch(number, loss, number == train_config.epochs, self._numbers() | self.cost.numbers(number))

    def save(self, number: int) -> None:
        """Keep the state after epoch `number`, which has been yielded; not after the last."""
        if self.context.checkpoint is not None and number < self.context.train_config.epochs:
            state = {"model": self.network.state_dict(), "em": self.em.state(), "kept": self.kept, "epoch": number}
            self.context.checkpoint.save(state | self.cost.state())

    def _spend(self, images: float) -> None:
        self.cost.passes += images / len(self.context.images)

    def _at(self, epoch: int) -> Images:
        return self.context.images.at(epoch)

    def _pretrain(self) -> None:
        method = self.defence.features
        images, classes = self.context.images, self.context.classes
        check_features(torch.zeros(len(images), 1), images.y, classes)  # before hours go into features
        if method != "own":
            config = self.defence.pretraining(method, self.defence.pretrain_epochs, images.shape)
            spent = pretrain_once(
                self.network.backbone,
                images.x,
                config,
                self.context.seed,
                self.context.cache_folder,
                self.context.heartbeat,
            )
            self.cost.passes += 2 * len(spent.losses)  # two views an image
            self.cost.shared_seconds += spent.seconds if spent.reused else 0.0

    def _filtered(self) -> Tensor:
        """The images (N',) that stay."""
        images, score = self._at(1), self.defence.outlier_filter
        if score == "off":
            return torch.arange(len(images))
        from raybd.defences.vibe.filter import outliers  # its libraries take 2 s, which few trials need

        v = self._tuned(images).every().double().cpu().numpy()
        y, heartbeat = images.y.cpu().numpy(), self.context.heartbeat
        out = outliers(v, y, self.context.classes, score, self.context.seed, heartbeat=heartbeat)
        return torch.from_numpy(~out).nonzero()[:, 0]

    def _tuned(self, images: Images) -> TrainableFeatures:
        return TrainableFeatures(
            self.network, images, self.context.train_config, self.context.seed, self.context.heartbeat, self._spend
        )

    def _source(self, images: Images) -> TrainableFeatures | FrozenFeatures:
        tuned = self._tuned(images)
        return tuned if self.defence.tuned else FrozenFeatures(tuned.every())

    def _em(self) -> Em:
        y = self.context.images.y[self.kept.to(self.context.images.y.device)]
        batches = math.ceil(len(y) / self.defence.batch_size)
        usual = max(ENOUGH, self.context.train_config.epochs * batches)
        config = self.defence.em(self.context, self.defence.iterations or usual)
        return Em(self.network.heads, self.source, y, config, self.context.seed)

    def _numbers(self) -> dict[str, float]:
        em = self.em
        changed = float((em.labels != em.y).float().mean())
        numbers = {"vibe/relabelled": changed, "vibe/e_steps": float(em.steps)}
        numbers |= {"vibe/kappa": float(self.network.heads.concentration(self.network.heads.kappa))}
        numbers |= {"vibe/nu": float(self.network.heads.concentration(self.network.heads.nu))}
        numbers |= {"vibe/removed": 1 - len(self.kept) / len(self.context.images), "vibe/column_error": em.column_error}
        return numbers if math.isnan(em.flips) else numbers | {"vibe/flip_rate": em.flips}

    @torch.no_grad()
    def _report(self) -> None:
        """Findings: suspicion is q(l != y|x, y); images of an outlier community are suspect whatever they hold."""
        n, kept, y = len(self.context.images), self.kept, self.em.y.cpu()
        q, labels = (part.cpu() for part in self.em.posterior())
        # summed, not 1 - q(y): small ones keep their order
        doubt = q.scatter(1, y[:, None], 0.0).sum(1).float()
        suspicion, flagged = torch.full((n,), 1.0), torch.ones(n, dtype=torch.bool)
        pseudolabel = torch.full((n,), self.context.classes)
        suspicion[kept], flagged[kept], pseudolabel[kept] = doubt, labels != y, labels
        self.context.findings.update({SUSPICION: suspicion, FLAGGED: flagged, PSEUDOLABEL: pseudolabel})
