"""The base class of defences: ways to train on a set that may be poisoned."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Self, final

from torch import Tensor, nn

from raybd.training import Checkpoint, Epoch, TrainConfig
from raybd.types import Images, coerce_floats
from raybd.utils.constraints import mistyped, violations


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """What a defence is given: a network, a training set that may be poisoned, and how to train."""

    model: nn.Module  # untrained, as `Defence.network` made it; trained in place
    images: Images  # the training set, which may be poisoned
    classes: int
    train_config: TrainConfig
    seed: int
    checkpoint: Checkpoint | None = None
    trusted: Images | None = None  # clean images that were set aside before the attack
    roles: Tensor | None = None  # (N,) the truth about `images`; only where `access` is "truth"
    cache_folder: Path | None = None  # where trials keep what others can use (encoders); None: nobody shares
    heartbeat: Callable[[], None] = lambda: None  # to be called now and then in long work
    findings: dict[str, Tensor] = field(default_factory=dict)  # of the defence: see SUSPICION and FLAGGED
    # networks that the defence worked with beside the one that is deployed, for measures that know the truth: ENCODER
    networks: dict[str, nn.Module] = field(default_factory=dict)


ENCODER = "encoder"  # a Classifier: what it finds was found in its features
SUSPICION = "suspicion"  # (N,) float: the higher, the likelier a training image is poison
FLAGGED = "flagged"  # (N,) bool: training images that were removed, relabelled or unlearnt

Access = Literal["training set", "clean images", "truth"]


@dataclass(frozen=True, kw_only=True)
class Defence(ABC):
    """A way to train. The fields of a subclass are its settings; it never sees which images are poisoned."""

    access: ClassVar[Access] = "training set"  # what it must be given beside the network
    parallel: ClassVar[bool] = False  # whether it trains through `fit`, which several ranks can share
    after_training: ClassVar[bool] = False  # whether it leaves the training to others, who may be the attacker
    streams: ClassVar[bool] = True  # whether it reads the images by index or in parts alone, as those of a streamed set

    def __post_init__(self) -> None:
        coerce_floats(self)

    @property
    def clean_share(self) -> float:
        """The share of the training set that must be set aside as clean images; matters only where they are given."""
        return 0.0

    def network(self, model: nn.Module) -> nn.Module:
        """The network that is deployed, around the untrained `model` of a trial; `model` itself by default."""
        return model

    def passes(self, epochs: int, images: int) -> float:
        """About how many passes, forward and back, over its `images` a training of `epochs` takes; for estimates."""
        return float(epochs)

    @abstractmethod
    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """Train `context.model` for `context.train_config.epochs` epochs, yielding each, resuming from the checkpoint.

        The checkpoint's state holds "epoch", the last epoch that was yielded. `Epoch.numbers` are what the defence
        says of itself; what it finds about training images goes to `context.findings` before the last epoch.
        """

    def problems(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """Why these settings cannot be used on images of `shape` with `classes` classes; empty if they can."""
        return []

    def count_problems(self, count: int) -> list[str]:
        """Why these settings cannot be used on a training set of `count` images; empty if they can."""
        return []

    def files(self) -> dict[str, str]:
        """The files that the defence reads, by the settings that name them."""
        return {}

    def by_content(self, contents: Mapping[str, str]) -> Self:
        """This defence with the content of each of its files in place of the path, as a trial's key knows it."""
        return self

    @final
    def check(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """Every reason why this defence cannot be used on such images, settings out of their range among them."""
        found = violations(self) + ([] if mistyped(self) else self.problems(shape, classes))
        return [f"{type(self).__name__}: {problem}" for problem in found]
