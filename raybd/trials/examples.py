"""Example images of a trial: the same test images clean and with the trigger, of several classes, with predictions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from raybd.types import Images, MetricContext

EXAMPLES = 8  # images in the picture of the trigger


@dataclass(frozen=True)
class Examples:
    """The same n test images clean and with the trigger, and the names of their classes, true and predicted."""

    clean: Images
    triggered: Images
    true: list[str]
    clean_prediction: list[str]
    triggered_prediction: list[str]

    @property
    def captions(self) -> list[list[tuple[str, str]]]:
        """The true and the predicted class of each image, clean and then triggered."""
        return [list(zip(self.true, p, strict=True)) for p in (self.clean_prediction, self.triggered_prediction)]


def examples_of(context: MetricContext) -> Examples:
    """Test images of as many classes as can be, with the trigger of each member of the attack in turn."""
    y, members = context.data.test.y.cpu(), len(context.members)
    index = varied(y, context.measured.cpu().view(members, -1).any(0), EXAMPLES)
    stamped = index + len(y) * (torch.arange(len(index)) % members)
    names = context.data.classes
    return Examples(
        clean=context.data.test.take(index),
        triggered=context.triggered.take(stamped),
        true=[names[k] for k in y[index]],
        clean_prediction=[names[k] for k in context.clean_logits[index].argmax(1)],
        triggered_prediction=[names[k] for k in context.triggered_logits[stamped].argmax(1)],
    )


def varied(y: Tensor, measured: Tensor, count: int) -> Tensor:
    """Indices of `count` images of classes `y` (N,): the first of each class, then the second, and so on.

    In each round the classes come first whose images the attack success rate counts, by the mask `measured` (N,).
    """
    by_class = y.argsort(stable=True)
    before = torch.arange(len(y)) - torch.searchsorted(y[by_class], y[by_class])
    key = 2 * before + (~measured[by_class]).long()
    return by_class[key.argsort(stable=True)[:count]]
