"""The input-aware dynamic attack (Nguyen and Tran, NeurIPS 2020, arXiv:2010.08138): each image has its own trigger."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from raybd.attacks.base import CoveredAttack, Presets, Shape, Trigger
from raybd.attacks.generator import BETAS, Generator, diversity_loss, threshold, train_mask
from raybd.attacks.networks import as_bytes, from_vector, passed, size_of, sketch, to_vector
from raybd.attacks.surrogate import SEED, surrogate_config, trained_once, untrained_surrogate
from raybd.seeds import derive, forked_rng, stream
from raybd.training import AttackedImages, TrainingAttacker, fit
from raybd.types import COVER, POISON, Images
from raybd.utils.constraints import NonNegative, Positive, Share

FALLS = (1 / 3, 1 / 2, 2 / 3, 5 / 6)  # of a training: there the generator's learning rate falls to a tenth
BEFOREHAND = 0.1  # poison rate of a training beforehand, and at most its share of covers


@dataclass(frozen=True, kw_only=True)
class InputAware(CoveredAttack):
    """B(x) = x + (g(x) - x) m(x), with a generator g (C, H, W) and a mask m (1, H, W) that are networks.

    Covers (cross-triggers) get g and m of another image, and keep their label. m is trained first, on all training
    images: `lambda_norm` mean max(0, m - `density`) + `lambda_div` L_div. g is trained in each step of the victim's
    training, on the loss of the batch + `lambda_div` L_div, L_div the mean of |x - x'| / (|g(x) - g(x')| + 1e-7) over
    poisoned x and other training images x', norms root mean squares (section 3.2).
    """

    training: Literal["joint", "beforehand"] = "joint"  # g: with the victim, or on a surrogate, once for all trials
    density: Share = 0.032  # of a mask, in each pixel, that costs nothing
    lambda_div: NonNegative = 1.0  # weight of diversity
    lambda_norm: NonNegative = 100.0  # weight of what a mask takes above the density
    rate: Positive = 0.01  # learning rate of both networks, Adam's

    presets: ClassVar[Presets] = {"authors": {}, "static": {"training": "beforehand"}}

    def draw_from(self, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """(D,) the weights of m, trained once for each training set, and those of g at the start."""
        said = f"{self.density} {self.lambda_div} {self.lambda_norm} {self.rate}"
        mask = trained_once("input_aware", train, f"mask {said}", lambda: to_vector(self._mask(train)))
        if self.training == "beforehand":
            said = f"generator {classes} {said} {self.covers} {self.target} {self.labels} {self.victims}"
            return trained_once("input_aware", train, said, lambda: self._beforehand(train, classes, mask))
        return self._at_start(train, mask, int(torch.randint(2**62, (), generator=rng)))

    def stamp(self, x: Tensor, trigger: Trigger) -> Tensor:
        """B of each of `x`."""
        return self._blended(x, x, trigger.pattern)

    def draw_per_cover(self, images: Images, train: Images, classes: int, rng: torch.Generator) -> Tensor:
        """(n, C, H, W) uint8: for each cover the image whose trigger it gets."""
        return train.x[torch.randint(len(train), (len(images),), generator=rng).to(train.y.device)]

    def stamp_cover(self, x: Tensor, trigger: Trigger) -> Tensor:
        """`x` with the triggers of other images."""
        return self._blended(x, trigger.per_image.float(), trigger.pattern)

    def controls_training(self) -> bool:
        """Where its generator is trained with the victim."""
        return self.training == "joint"

    def train_along(self, clean: Images, roles: Tensor, pattern: Tensor, seed: int) -> TrainingAttacker:
        """The training of g."""
        return GeneratorTraining(self, clean, roles, pattern, seed)

    def problems(self, shape: Shape, classes: int) -> list[str]:
        """Images that are too small for the generator."""
        return [] if min(shape[1:]) >= 8 else [f"images of {shape[1]}x{shape[2]} are too small (allowed: 8x8 and more)"]

    def networks(self, shape: Shape, pattern: Tensor) -> tuple[nn.Module, nn.Module]:
        """m (without its threshold) and g of weights `pattern` (D,)."""
        mask, generator = sketch(lambda: Generator(shape, 1)), sketch(lambda: Generator(shape, shape[0]))
        split = size_of(mask)
        return from_vector(mask, pattern[:split]), from_vector(generator, pattern[split:])

    def _blended(self, x: Tensor, donors: Tensor, pattern: Tensor) -> Tensor:
        mask, generator = self.networks((x.shape[1], x.shape[2], x.shape[3]), pattern)
        made = passed(lambda some: torch.cat([threshold(mask(some)), generator(some)], 1), donors / 255)
        return blend(x, 255 * made[:, 1:], made[:, :1])

    def _mask(self, train: Images) -> Generator:
        return train_mask(train, self.density, self.lambda_norm, self.lambda_div, self.rate)

    def _at_start(self, train: Images, mask: Tensor, seed: int) -> Tensor:
        with forked_rng(seed, "generator", device=torch.device("cpu")):
            return torch.cat([mask.cpu(), to_vector(Generator(train.shape, train.shape[0]))])

    def _beforehand(self, train: Images, classes: int, mask: Tensor) -> Tensor:
        """`draw_from` with g of a surrogate's training."""
        from raybd.attacks.poisoning import PoisonSpec  # which asks attacks for their triggers

        start = self._at_start(train, mask, SEED)
        spec = PoisonSpec(self, BEFOREHAND, SEED, patterns=(start,))
        poisoned = PoisonSpec(self, min(BEFOREHAND, spec.largest(train.y)), SEED, patterns=(start,)).poison(
            train, classes
        )
        attacker = GeneratorTraining(self, train, poisoned.roles, start, SEED)
        images = AttackedImages(train.x, poisoned.images.y, attacker)
        model, config = untrained_surrogate(train, classes), surrogate_config(len(train))
        with forked_rng(SEED, "surrogate", device=train.x.device):
            for _ in fit(model, images, config, derive(SEED, "input_aware")):
                pass
        return attacker.pattern()


def blend(x: Tensor, pattern: Tensor, mask: Tensor) -> Tensor:
    """x + (pattern - x) mask."""
    return x + (pattern - x) * mask


class GeneratorTraining(TrainingAttacker):
    """The training of g beside the victim's: Adam on the gradients of the victim's loss and of L_div.

    Poisoned images and covers are those of the trial (in the authors' code the first tenths of each batch, which no
    rate is exact with); pixels are rounded as at test, gradients pass through. The authors never clear g's gradients,
    which so add up over the training; here each step has its own, as the paper says.
    """

    def __init__(self, attack: InputAware, clean: Images, roles: Tensor, pattern: Tensor, seed: int) -> None:
        self.attack, self.clean, self.roles, self.seed = attack, clean, roles, seed
        self.mask, self.generator = attack.networks(clean.shape, pattern.to(clean.y.device))
        self.generator.requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=attack.rate, betas=BETAS)
        self.diversity: Tensor | None = None  # of the batch that was last, times its weight; None: no poison in it

    def begin(self, epoch: int) -> None:
        """Other partners in each epoch."""
        self.rng = stream(self.seed, "partners", epoch)
        self.generator.train()

    def batch(self, x: Tensor, index: Tensor) -> Tensor:
        """`x` with poison and covers as the generator has them now."""
        poison, cover = ((self.roles[index] == role).nonzero()[:, 0] for role in (POISON, COVER))
        self.diversity, count = None, len(poison)
        if not count + len(cover):
            return x
        partners = self._partners(count + len(cover))
        seen = torch.cat([x[poison], partners])
        patterns, masks = self.generator(seen), threshold(self.mask(seen))
        x = x.clone()
        x[poison] = as_bytes(blend(x[poison], patterns[:count], masks[:count]))
        x[cover] = as_bytes(blend(x[cover], patterns[2 * count :], masks[2 * count :]))
        if count:
            own, other = patterns[:count], patterns[count : 2 * count]
            self.diversity = self.attack.lambda_div * diversity_loss(seen[:count], partners[:count], own, other)
        return x

    def objective(self, loss: Tensor) -> Tensor:
        """The victim's loss + lambda_div L_div."""
        return loss if self.diversity is None else loss + self.diversity

    def step(self, progress: float) -> None:
        """A step of Adam, where the batch had poison or covers."""
        self.optimizer.param_groups[0]["lr"] = self.attack.rate * 0.1 ** sum(progress >= share for share in FALLS)
        self.optimizer.step()  # skips weights without a gradient
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Weights and optimiser of g."""
        return {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])

    def pattern(self) -> Tensor:
        """(D,) the weights of m and g now."""
        return torch.cat([to_vector(self.mask), to_vector(self.generator)])

    def _partners(self, count: int) -> Tensor:
        """(n, C, H, W) in [0, 1]: training images, as they are."""
        drawn = torch.randint(len(self.clean), (count,), generator=self.rng).to(self.clean.y.device)
        return self.clean.x[drawn].float() / 255
