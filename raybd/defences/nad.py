"""NAD: the network learns where to look from a fine-tuned copy of itself.

Li, Lyu, Koren, Lyu, Li and Ma, "Neural Attention Distillation: Erasing Backdoor Triggers from Deep Neural Networks",
ICLR 2021 (arXiv:2101.05930).
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from raybd.defences.base import TrainingContext
from raybd.defences.post import CleanRepair, Numbers, descend, fine_tune, require_layers
from raybd.types import Images
from raybd.utils.constraints import NonNegative, Positive

Maps = list[Tensor]  # (N, C, h, w) activations of each stage


@dataclass(frozen=True, kw_only=True)
class Nad(CleanRepair):
    """Cross-entropy + sum over stages of beta_l times the distance of the teacher's and the student's attention.

    A stage is all that has one resolution; its last block's activations are looked at.
    """

    teacher_steps: Annotated[int, Ge(1)] = 200
    steps: Annotated[int, Ge(1)] = 400
    learning_rate: Positive = 0.01
    betas: tuple[NonNegative, ...] = (
        500.0,
        1000.0,
        1000.0,
    )  # of each stage, the last of all after it too; BackdoorBench's

    # of its authors' released configuration
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "authors": {"betas": (0.0, 0.0, 5000.0), "learning_rate": 0.1}
    }

    def network(self, model: nn.Module) -> nn.Module:
        """`model` as it is. Raises InputError where it is not a sequence of blocks."""
        require_layers("nad", isinstance(getattr(model, "blocks", None), nn.Sequential), "a sequence of blocks")
        return model

    def problems(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """No betas."""
        return [] if self.betas else ["betas must be at least one"]

    def repair(self, model: nn.Module, clean: Images, context: TrainingContext) -> Numbers:
        """Fine-tune the teacher, a copy, then distil it into `model`."""
        teacher = copy.deepcopy(model)
        fine_tune(teacher, clean, context, self.teacher_steps, self.learning_rate)
        teacher.eval().requires_grad_(False)
        with stages(teacher) as wanted, stages(model) as shown:

            def backward(x: Tensor, y: Tensor) -> None:
                wanted.clear()
                shown.clear()
                with torch.no_grad():
                    teacher(x)
                given = F.cross_entropy(model(x), y)
                (given + distillation(last_of_each(wanted), last_of_each(shown), self.betas)).backward()

            descend(model, clean, context, self.steps, self.learning_rate, backward)
        return {}


def attention(maps: Tensor) -> Tensor:
    """A(F) / ||A(F)||_2 with A(F) = sum_c |F_c|^2: (N, C, h, w) -> (N, h * w), eq. 1 and 2 with p = 2."""
    return F.normalize(maps.square().sum(1).flatten(1), dim=1)


def distillation(teacher: Maps, student: Maps, betas: tuple[float, ...]) -> Tensor:
    """Sum over stages l of beta_l times the mean over images and positions of the squared difference of attention.

    BackdoorBench's betas (500, 1000, 1000) belong to this mean, which is ||A_T - A_S||^2 / (h w), and not to the
    distance of eq. 2; the authors' released configuration has 0, 0 and 5000.
    """
    rest = (betas[-1],) * (len(teacher) - len(betas))
    pairs = zip((*betas, *rest), teacher, student, strict=False)
    return torch.stack([beta * F.mse_loss(attention(s), attention(t)) for beta, t, s in pairs]).sum()


@contextmanager
def stages(model: nn.Module) -> Iterator[Maps]:
    """Inside, what every block of `model` puts out is added to the list."""
    blocks = model.blocks
    assert isinstance(blocks, nn.Sequential)
    seen: Maps = []
    hooks = [block.register_forward_hook(lambda module, inputs, output: seen.append(output)) for block in blocks]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def last_of_each(maps: Maps) -> Maps:
    """Of `maps`, in order, the last of each resolution; one of 1x1 has no attention."""
    last = {tuple(part.shape[2:]): part for part in maps}
    return [part for part in last.values() if part.shape[2] * part.shape[3] > 1]
