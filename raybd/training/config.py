"""TrainConfig: the hyperparameters of a training; Epoch: the report of one epoch."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from raybd.types import coerce_floats
from raybd.utils.constraints import NonNegative, Positive, Share


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Hyperparameters of a training; every field changes its result."""

    epochs: Annotated[int, Ge(1)] = 20
    batch_size: Annotated[int, Ge(2)] = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive = 0.1  # the peak
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9  # of sgd
    weight_decay: NonNegative = 5e-4  # on every parameter
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    crop: Annotated[int, Ge(0)] = 0  # pixels of black padding before a random crop of each image
    flip: bool = False  # mirror each image with probability 1/2
    beta: Share = 1.0  # weight of each poisoned image's loss; 0: poison is left out
    beta_mode: Literal["sample", "batchmean"] = "sample"  # see raybd/training/weighting.py
    patience: Annotated[int, Ge(0)] = 0  # stop after so many epochs without a lower training loss; 0: never
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast on a GPU, fp32 on a CPU
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"  # no slower on a CPU, faster on a GPU
    # processes that share each batch, by data parallelism
    workers: Annotated[int, Ge(1)] = field(default=1, metadata={"since": "0.2"})
    sync_batch_norm: bool = field(default=False, metadata={"since": "0.2"})  # over all workers; GPUs only

    # algorithms that give the same bits on a GPU each time, which costs time there; a CPU's always do
    deterministic: bool = field(default=False, metadata={"since": "0.2"})

    def __post_init__(self) -> None:
        coerce_floats(self)

    @property
    def weighted(self) -> bool:
        """Whether poison is weighted otherwise than all other images."""
        return self.beta != 1 or self.beta_mode != "sample"


@dataclass(frozen=True)
class Epoch:
    """Report of an epoch of training."""

    number: int  # from 1
    loss: float  # mean over its images, in nats
    last: bool
    numbers: dict[str, float] = field(default_factory=dict)  # metrics of the defence's own
