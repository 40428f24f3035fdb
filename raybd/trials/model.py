"""ModelConfig: which network or convex learner; and what a config may set for each of these two kinds of model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from raybd.convex import LEARNERS, Learner
from raybd.errors import InputError
from raybd.models.pretrained import weights_file
from raybd.models.torchvision_model import PREFIX
from raybd.training import TrainConfig
from raybd.types import coerce_floats
from raybd.utils.constraints import NonNegative, Positive, violations

NETWORKS = ("width", "depth", "noise", "weights", "input_size", "patch_size")  # settings that convex learners have not


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A network or a convex learner, by name; each has settings that the other has not."""

    name: str = "small_cnn"
    width: Positive = 1.0  # multiplies the channels
    depth: int | None = None  # None: the architecture's own
    noise: NonNegative = 0.0  # standard deviation of the Gaussian noise after its activations, in training and after
    C: Positive | None = None  # of a convex learner: weight of its summed losses against |w|^2 / 2
    gamma: Positive | None = None  # of svm_rbf: exp(-gamma |x - z|^2)
    # of torchvision's networks: a file, or torchvision's name, of pretrained weights; the head is new
    weights: str = field(default="", metadata={"since": "0.2"})
    # of the same: side in pixels to which they resize images; 0: that of the weights, or none
    input_size: Annotated[int, Ge(0)] = field(default=0, metadata={"since": "0.2"})
    # of torchvision's ViT, ConvNeXt, DenseNet: side in pixels of a position of the first map; 0: as published
    patch_size: Annotated[int, Ge(0)] = field(default=0, metadata={"since": "0.3"})

    def __post_init__(self) -> None:
        coerce_floats(self)

    @property
    def kind(self) -> "ModelKind":
        """Whether it is a network, which is trained, a convex learner, which is fitted, or a script of the user's."""
        return SCRIPT if self.name == SCRIPT.name else CONVEX if self.name in LEARNERS else NETWORK

    @property
    def network_settings(self) -> dict[str, Any]:
        """The settings of a network, as `raybd.models` takes them."""
        usual = {"width": self.width, "depth": self.depth, "noise": self.noise}
        pretrained = {"weights": self.weights, "input_size": self.input_size, "patch_size": self.patch_size}
        return usual | {name: value for name, value in pretrained.items() if value}

    def weights_file(self) -> Path | None:
        """The file of the pretrained weights; None without.

        Raises:
            InputError: there is none, and none can be downloaded.
        """
        return weights_file(self.name.removeprefix(PREFIX), self.weights) if self.weights else None

    def learner(self) -> Learner:
        """The convex learner.

        Raises:
            InputError: its settings make no sense.
        """
        if found := self.problems():
            raise InputError(found)
        given = {"C": self.C, "gamma": self.gamma}
        return LEARNERS[self.name](**{name: value for name, value in given.items() if value is not None})

    def problems(self) -> list[str]:
        """Settings that are missing, of the other kind of model, or out of range."""
        return violations(self, f"model {self.name}: ") + self.kind.problems(self)


class ModelKind(ABC):
    """Networks or convex learners: which settings a model of this kind has, and how they are written."""

    absent: ClassVar[tuple[str, ...]]  # parameters of a trial, or prefixes of their names, that it does not have

    @abstractmethod
    def problems(self, model: ModelConfig) -> list[str]:
        """Settings that such a model lacks, or does not have."""

    @abstractmethod
    def describe(self, model: ModelConfig, train: TrainConfig, data: str) -> str:
        """The settings that tell a trial's model from that of others, for instance "width=0.5 wd=0.05"."""


class NetworkKind(ModelKind):
    """Networks, which are trained."""

    absent = ("model.C", "model.gamma", "recipe")

    def problems(self, model: ModelConfig) -> list[str]:
        """Settings of convex learners."""
        given = [name for name in ("C", "gamma") if getattr(model, name) is not None]
        return [f"model {model.name} has no setting {name} (convex learners have)" for name in given]

    def describe(self, model: ModelConfig, train: TrainConfig, data: str) -> str:
        """Width, weight decay, learning rate, epochs; beta where poison is weighted; workers above one."""
        said = f"width={model.width:g} wd={train.weight_decay:g} lr={train.learning_rate:g} epochs={train.epochs}"
        said += f" weights={Path(model.weights).name}" if model.weights else ""
        said += f" input_size={model.input_size}" if model.input_size else ""
        said += f" patch_size={model.patch_size}" if model.patch_size else ""
        said += f" beta={train.beta:g}" if train.weighted else ""
        return said + (f" workers={train.workers}" if train.workers > 1 else "")


class ConvexKind(ModelKind):
    """Convex learners, which are fitted."""

    absent = ("train.", "model.width", "model.depth", "model.noise")

    def problems(self, model: ModelConfig) -> list[str]:
        """Settings of networks; a C or gamma that is missing, or of another learner."""
        usual = ModelConfig()
        wrong = [name for name in NETWORKS if getattr(model, name) != getattr(usual, name)]
        found = [f"model {model.name} has no setting {name} (networks have)" for name in wrong]
        return found + [
            f"model {model.name} {'needs' if wanted else 'has no'} setting {name}"
            for name, wanted in {"C": True, "gamma": model.name == "svm_rbf"}.items()
            if (getattr(model, name) is not None) != wanted
        ]

    def describe(self, model: ModelConfig, train: TrainConfig, data: str) -> str:
        """C, gamma where it has one, and the data, which are a pair of classes."""
        said = f"C={model.C:g}" if model.gamma is None else f"C={model.C:g} gamma={model.gamma:g}"
        return f"{said} {data}"


class ScriptKind(ModelKind):
    """What a user's own script trains, of which nothing is known but what it predicts."""

    name = "script"
    absent = ("train.", "model.width", "model.depth", "model.noise", "model.C", "model.gamma", "recipe", "probes")

    def problems(self, model: ModelConfig) -> list[str]:
        """Settings of raybd's own models."""
        given = [
            name for name, value in vars(model).items() if name != "name" and value != getattr(ModelConfig(), name)
        ]
        return [f"model {model.name} has no setting {name}: a script has knobs" for name in given]

    def describe(self, model: ModelConfig, train: TrainConfig, data: str) -> str:
        """Nothing: what tells scripts apart are their knobs."""
        return ""


NETWORK, CONVEX, SCRIPT = NetworkKind(), ConvexKind(), ScriptKind()
