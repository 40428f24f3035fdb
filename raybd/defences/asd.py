"""ASD: two pools, of images whose labels are believed and of the others, which are split anew in every epoch.

Gao, Bai, Gu, Yang and Xia, "Backdoor Defense via Adaptively Splitting Poisoned Dataset", CVPR 2023
(arXiv:2303.12993), section 4. The network is trained by MixMatch on both pools throughout. Believed are a few clean
seeds, always, and

    up to T1   of each class, the images with the lowest symmetric cross-entropy: `added` more every few epochs;
    up to T2   half of all images, those with the lowest, whatever their class;
    after T2   half of all images, those whose loss falls the least when a copy of the network is trained on
               everything for one pass (the virtual model): poison is learnt at once, hard clean images are not.

T1 and T2 are the paper's 60 and 90 of 120 epochs, the few epochs its 5 of 120, as shares of the trial's. In the
authors' code the virtual model is trained by Adam on its last two stages of four and head (`virtual_optimizer="adam"`,
the later half of the blocks here); on digits that lets Blended in (docs/defences.md), so here it is SGD on all weights.
There seeds are believed by force before T1 alone, for they are images of the training set; here they are clean images
beside it.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from raybd.defences.base import FLAGGED, SUSPICION, Access, Defence, TrainingContext
from raybd.defences.dbd import symmetric
from raybd.defences.filtering import check_trusted
from raybd.defences.mixmatch import MixMatch
from raybd.defences.trainer import Trainer, logits_of, lowest, lowest_of_each
from raybd.seeds import stream
from raybd.training import Epoch, augment, autocast, in_batches, prepare
from raybd.types import Images
from raybd.utils.constraints import InnerShare, NonNegative, Positive

T1, T2, STEP = 60 / 120, 90 / 120, 5 / 120


@dataclass(frozen=True, kw_only=True)
class Asd(Defence):
    """Loss-guided, then meta-learnt splits. A training that is stopped goes on with the same bits."""

    seeds: Annotated[int, Ge(1)] = 10  # clean images of each class
    added: Annotated[int, Ge(1)] = 10  # images of each class
    believed: InnerShare = 0.5  # share after T1
    virtual_rate: Positive = 0.015  # learning rate of the virtual model
    # its optimizer: sgd on all weights, or adam on the later half of the blocks and the head
    virtual_optimizer: Literal["sgd", "adam"] = field(default="sgd", metadata={"since": "0.3"})
    temperature: Positive = MixMatch.temperature
    alpha: Positive = MixMatch.alpha
    unlabelled: NonNegative = MixMatch.unlabelled

    access: ClassVar[Access] = "clean images"
    streams: ClassVar[bool] = False  # it puts the seeds behind the images

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """MixMatch, with a split before every epoch."""
        check_trusted("asd", context)
        trainer, last, mixmatch = Trainer(context), context.train_config.epochs, self._mixmatch()
        seeds = drawn_seeds(context, self.seeds)
        trainer.cost.extra = len(seeds)
        for number in range(trainer.first, last + 1):
            images = context.images.at(number)
            suspicion, believed = self._split(trainer, number, images)
            everything = Images(torch.cat([images.x, seeds.x]), torch.cat([images.y, seeds.y]))
            pool = torch.cat([believed, torch.ones(len(seeds), dtype=torch.bool)])
            loss = mixmatch.epoch(trainer, number, everything, pool)
            context.findings.update({SUSPICION: suspicion, FLAGGED: ~believed})
            yield Epoch(number, loss, number == last, trainer.cost.numbers(number))
            trainer.save(number)

    def _mixmatch(self) -> MixMatch:
        return MixMatch(**{f.name: getattr(self, f.name) for f in fields(MixMatch)})

    def _split(self, trainer: Trainer, number: int, images: Images) -> tuple[Tensor, Tensor]:
        """The suspicion (N,) of `images` before epoch `number`, and which are believed (N,) bool."""
        context, last = trainer.context, trainer.context.train_config.epochs
        loss = symmetric(logits_of(trainer.model, images.x, context), images.y).cpu()
        trainer.cost.passes += 1 / 3
        half = round(self.believed * len(images))
        if number <= round(T1 * last):
            count = self.added * ((number - 1) // max(1, round(STEP * last)))
            return loss, lowest_of_each(loss, images.y.cpu(), context.classes, count)
        if number <= round(T2 * last):
            return loss, lowest(loss, half)
        fall = loss - self._virtual(trainer, number, images)
        return fall, lowest(fall, half)

    def _virtual(self, trainer: Trainer, number: int, images: Images) -> Tensor:
        """The symmetric cross-entropy (N,) after one pass over all of `images`, labels as given."""
        context, train_config = trainer.context, trainer.context.train_config
        copied = copy.deepcopy(trainer.model).train()
        sgd = self.virtual_optimizer == "sgd"
        kind, weights = (
            (torch.optim.SGD, list(copied.parameters())) if sgd else (torch.optim.Adam, later_weights(copied))
        )
        optimizer = kind(weights, lr=self.virtual_rate)
        rng = stream(context.seed, "virtual", "augmentation", number, device=images.x.device)
        order = torch.randperm(len(images), generator=stream(context.seed, "virtual", number)).to(images.x.device)
        for index in in_batches(order, train_config.batch_size):
            x = prepare(augment(images.x[index], train_config.crop, train_config.flip, rng), train_config)
            with autocast(train_config, x.device):
                loss = F.cross_entropy(copied(x), images.y[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        trainer.cost.passes += 1 + 1 / 3
        return symmetric(logits_of(copied, images.x, context), images.y).cpu()


def later_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights of the later half of `model.blocks`, rounded up, and of what comes after them; or all weights."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential):
        return list(model.parameters())
    early = [weight for block in blocks[: len(blocks) // 2] for weight in block.parameters()]
    before = {id(weight) for weight in early}
    if isinstance(stem := getattr(model, "stem", None), nn.Module):
        before |= {id(weight) for weight in stem.parameters()}
    return [weight for weight in model.parameters() if id(weight) not in before]


def drawn_seeds(context: TrainingContext, count: int) -> Images:
    """`count` of the clean images of each class, or all where there are fewer, from the stream "seeds"."""
    assert context.trusted is not None
    y = context.trusted.y.cpu()
    chance = torch.rand(len(y), generator=stream(context.seed, "seeds"))
    index = lowest_of_each(chance, y, context.classes, count).nonzero()[:, 0]
    return context.trusted.take(index.to(context.trusted.x.device))
