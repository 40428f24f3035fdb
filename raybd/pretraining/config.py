"""Everything that decides what an encoder learns, besides its pixels, its first weights and the seed."""

from dataclasses import dataclass, fields
from typing import Literal, get_args

from raybd.errors import InputError
from raybd.pretraining.augmentations import Views
from raybd.types import coerce_floats

Method = Literal["simclr", "nnclr"]
Optimizer = Literal["sgd", "lars"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How an encoder is trained; every field changes what comes out."""

    method: Method = "simclr"
    epochs: int = 40
    batch_size: int = 256  # images; each is seen twice
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.5  # the peak
    momentum: float = 0.9
    weight_decay: float = 1e-4  # of sgd on every parameter, of lars on those of two dimensions and more
    warm_up: float = 5.0  # epochs of a straight rise, before a cosine down to 0
    temperature: float = 0.2
    hidden: int = 128  # units of the projector's (and the predictor's) hidden layer
    projection: int = 64  # dimensions in which views are compared
    queue: int = 1024  # projections among which nnclr looks for neighbours
    views: Views | None = None  # None: `suited` to the images, without mirroring
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast on a GPU, fp32 on a CPU
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"

    def __post_init__(self) -> None:
        coerce_floats(self)
        if problems := [text for holds, text in self._rules() if not holds]:
            raise InputError(problems)

    def _rules(self) -> list[tuple[bool, str]]:
        words = {"method": get_args(Method), "optimizer": get_args(Optimizer)}
        least = {
            "epochs": 1,
            "batch_size": 2,
            "hidden": 1,
            "projection": 1,
            "queue": 1,
        }
        least |= {"weight_decay": 0, "warm_up": 0, "momentum": 0}
        above = ("learning_rate", "temperature")
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return [
            *((values[key] in known, f"{key} must be of {known}, got {values[key]!r}") for key, known in words.items()),
            *((values[key] >= low, f"{key} must be at least {low}, got {values[key]}") for key, low in least.items()),
            *((values[key] > 0, f"{key} must be above 0, got {values[key]}") for key in above),
            (self.momentum < 1, f"momentum must be below 1, got {self.momentum}"),
        ]
