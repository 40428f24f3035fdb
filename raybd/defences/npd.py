"""NPD: one linear layer inside the network, the polarizer, learns to let features through but for a trigger's.

Zhu, Wei, Zha and Wu, "Neural Polarizer: A Lightweight and Effective Backdoor Defense via Purifying Poisoned Features",
NeurIPS 2023, and the authors' code. The polarizer is a 1x1 convolution from C to C channels and a batch norm, before
the first convolution of the last block; all else stays as it was trained. With t the likeliest wrong class of a clean
image x, and d such that x + d is taken for t, |d|_2 <= radius, the polarizer descends, means over a batch,

    a1 CE(x, y) + a2 CE(x + d, h(x)) + a3 mean of -ln(1 - p_w(x + d)) + a4 mean of -ln(1 - p_t(x + d)),

h(x) the network's class of x, w the likeliest wrong class of x + d.

Constants: a 1, 0.4, 0.4, 0.4; radius 3 for an image of 3x32x32, here in proportion; d from 0 by two steps of 0.1 along
the sign of the gradient, fewer where more than 60 % of a batch are at t; SGD at 0.01 with momentum 0.9 and weight
decay 5e-4, 1000 steps (50 passes over 2,500 images in batches of 128) after 100 at 1e-4 on CE alone, in which the
polarizer's batch norm learns its statistics: those of the code.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.defences.base import TrainingContext
from raybd.defences.post import CleanRepair, Numbers, batches, require_layers
from raybd.defences.sau import log_denied
from raybd.seeds import forked_rng
from raybd.types import Images
from raybd.utils.constraints import Count, NonNegative, Positive, Share

RADIUS = 3 / math.sqrt(3 * 32 * 32)
WARM_RATE, MOMENTUM, WEIGHT_DECAY = 1e-4, 0.9, 5e-4


@dataclass(frozen=True, kw_only=True)
class Npd(CleanRepair):
    """The network is deployed with the polarizer, which changes nothing until it is trained."""

    warm_steps: Count = 100
    steps: Count = 1000
    learning_rate: Positive = 0.01
    radius: Positive = RADIUS  # over sqrt(C H W)
    ascents: Count = 2  # steps on d
    ascent_rate: Positive = 0.1
    enough: Share = 0.6  # of a batch at t
    weights: tuple[NonNegative, ...] = (1.0, 0.4, 0.4, 0.4)  # a1 to a4

    def network(self, model: nn.Module) -> nn.Module:
        """`model` with the polarizer in it. Raises InputError where it has no blocks with a convolution."""
        name = polarized_layer(model)
        require_layers("npd", bool(name), "a sequence of blocks, of which one has a convolution")
        convolution = cast(nn.Conv2d, model.get_submodule(name))
        model.set_submodule(name, nn.Sequential(Polarizer(convolution.in_channels), convolution))
        return model

    def problems(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """Not four weights."""
        return [] if len(self.weights) == 4 else [f"weights must be four, got {len(self.weights)}"]

    def repair(self, model: nn.Module, clean: Images, context: TrainingContext) -> Numbers:
        """Train the polarizer, of which the network has one."""
        (polarizer,) = (module for module in model.modules() if isinstance(module, Polarizer))
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        model.eval().requires_grad_(False)
        polarizer.activate()
        self._warm(model, polarizer, batches(clean, context, self.warm_steps, "warm"))
        self._train(model, polarizer, batches(clean, context, self.steps, "npd"))
        polarizer.requires_grad_(False)
        for weight in trained:
            weight.requires_grad_(True)
        return {}

    def _warm(self, model: nn.Module, polarizer: "Polarizer", drawn: Iterator[tuple[Tensor, Tensor]]) -> None:
        optimizer = torch.optim.SGD(polarizer.parameters(), lr=WARM_RATE)
        polarizer.norm.train()
        for x, y in drawn:
            _descend(optimizer, F.cross_entropy(model(x), y))
        polarizer.norm.eval()

    def _train(self, model: nn.Module, polarizer: "Polarizer", drawn: Iterator[tuple[Tensor, Tensor]]) -> None:
        optimizer = torch.optim.SGD(
            polarizer.parameters(), lr=self.learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        for x, y in drawn:
            with torch.no_grad():
                given = model(x)
            target = likeliest_wrong(given, y)
            moved = self.adversarial(model, x, target)
            _descend(optimizer, self.loss(model(x), model(moved), y, given.argmax(1), target))

    def adversarial(self, model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        """x + d in [0, 1] of the images `x` (B, C, H, W), for the classes `target` (B,)."""
        bound = self.radius * math.sqrt(math.prod(x.shape[1:]))
        d = torch.zeros_like(x)
        for _ in range(self.ascents):
            free = d.requires_grad_()
            logits = model((x + free).clamp(0, 1))
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, target), free)
            d = into_ball(free.detach() - self.ascent_rate * gradient.sign(), bound)
            with torch.no_grad():
                reached = model((x + d).clamp(0, 1)).argmax(1) == target
            if float(reached.float().mean()) > self.enough:
                break
        return (x + d).clamp(0, 1)

    def loss(self, clean: Tensor, moved: Tensor, y: Tensor, given: Tensor, target: Tensor) -> Tensor:
        """The polarizer's, of the logits (B, K) of x and x + d; labels, h(x) and t (B,)."""
        terms = (
            F.cross_entropy(clean, y),
            F.cross_entropy(moved, given),
            -log_denied(moved, likeliest_wrong(moved, y)).mean(),
            -log_denied(moved, target).mean(),
        )
        return torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum()


class Polarizer(nn.Module):
    """A 1x1 convolution, at the start the identity, and a batch norm; what comes in goes out until it is activated.

    Its batch norm is always that of evaluation, but where `norm` itself is put into training.
    """

    active: Tensor  # () bool

    def __init__(self, channels: int) -> None:
        super().__init__()
        with forked_rng(0, "polarizer", device=torch.device("cpu")):  # what is drawn is overwritten
            self.convolution = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.dirac_(self.convolution.weight)
        self.register_buffer("active", torch.tensor(False))
        self.requires_grad_(False).eval()

    def activate(self) -> None:
        """Let it work, and be trained."""
        self.active.fill_(True)
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> "Polarizer":
        """Nothing: training the network around it leaves it as it is."""
        super().train(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        polarized: Tensor = self.norm(self.convolution(x))
        return torch.where(self.active, polarized, x)


def polarized_layer(model: nn.Module) -> str:
    """The name of the first convolution of the last of `model.blocks` that has one; "" where there is none."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential):
        return ""
    convolutions = [name for name, module in blocks.named_modules() if isinstance(module, nn.Conv2d)]
    last = convolutions[-1].partition(".")[0] if convolutions else ""
    return next((f"blocks.{name}" for name in convolutions if name.partition(".")[0] == last), "")


def likeliest_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """(B,) the class of the largest of `logits` (B, K) but for that of `y` (B,)."""
    return logits.scatter(1, y[:, None], -torch.inf).argmax(1)


def into_ball(d: Tensor, bound: float) -> Tensor:
    """Each of `d` (B, C, H, W) shortened to a length of `bound`, if it is longer."""
    length: Tensor = d.flatten(1).norm(dim=1)[:, None, None, None]
    return d * (bound / length.clamp_min(1e-12)).clamp_max(1)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
