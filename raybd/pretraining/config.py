"""PretrainConfig: how an encoder is pretrained."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from raybd.errors import InputError
from raybd.pretraining.augmentations import Views
from raybd.types import coerce_floats
from raybd.utils.constraints import NonNegative, Positive, violations

Size = Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How an encoder is pretrained; every field changes what comes out.

    Raises:
        InputError: with every field that is out of its range.
    """

    method: Literal["simclr", "nnclr"] = "simclr"
    epochs: Size = 40
    batch_size: Annotated[int, Ge(2)] = 256  # images; each is seen twice
    optimizer: Literal["sgd", "lars"] = "sgd"
    learning_rate: Positive = 0.5  # the peak
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 1e-4  # of sgd on every parameter, of lars on those of two dimensions and more
    warm_up: NonNegative = 5.0  # epochs of linear warm-up, before a cosine decay to 0
    temperature: Positive = 0.2
    hidden: Size = 128  # units of the projector's (and the predictor's) hidden layer
    projection: Size = 64  # dimensions in which views are compared
    queue: Size = 1024  # projections among which nnclr looks for neighbours
    views: Views | None = None  # None: `default_views` of the images
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast on a GPU, fp32 on a CPU
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"

    def __post_init__(self) -> None:
        coerce_floats(self)
        if problems := violations(self):
            raise InputError(problems)
