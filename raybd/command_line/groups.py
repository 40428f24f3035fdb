"""Groups of options: each is a dataclass whose fields are flags, with their defaults, ranges and help texts."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Interval, MinLen
from joblib import cpu_count

from raybd.attacks import ATTACKS
from raybd.data import check_name
from raybd.defences import DEFENCES
from raybd.errors import InputError
from raybd.execution.proposers import PROPOSERS
from raybd.execution.ray_choice import address_problems
from raybd.execution.resources import KeepModels, Resources
from raybd.metrics import METRICS
from raybd.plugins import find, split, unknown
from raybd.plugins.own import entry_points, target_of
from raybd.utils.constraints import Count, NonNegative, Positive, Share, empty, flag, violations

MOST_TRIALS = 10**6  # of a sweep


def unknown_methods(kind: str, texts: tuple[str, ...], table: Mapping[str, type], *others: str) -> list[str]:
    """The problems with the methods NAME, NAME:PRESET or NAME:SETTING=VALUE,... whose names are neither of `table` nor
    `others`, nor those of classes of one's own; such a class is imported."""
    names = [split(kind, table, text)[0] for text in texts]
    own = [name for name in dict.fromkeys(names) if name not in (*table, *others) and target_of(kind, name)]
    strange = [name for name in names if name not in own]
    allowed = (
        [*table, *others, *entry_points(kind)]
        if any(n not in (*table, *others) for n in strange)
        else [*table, *others]
    )
    return unknown(kind, strange, allowed) + [problem for name in own for problem in _own_problems(kind, table, name)]


def _own_problems(kind: str, table: Mapping[str, type], name: str) -> list[str]:
    try:
        find(kind, table, name)
    except InputError as error:
        return error.problems
    return []


@dataclass(frozen=True, kw_only=True)
class OptionGroup:
    """Options of one topic; every group checks its own values."""

    def problems(self) -> list[str]:
        """Values out of their range, and lists without one, by their flags."""
        return violations(self, spell=flag) + empty(self, spell=flag)


@dataclass(frozen=True, kw_only=True)
class DataOptions(OptionGroup):
    """The images."""

    data: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, cifar100, gtsrb, svhn, npz:PATH, folder:PATH or module:Class."""
    data_root: str | None = field(default_factory=lambda: os.environ.get("RAYBD_DATA"))
    """Folder with the data sets (also RAYBD_DATA)."""
    validation: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Share of the training set to set aside."""
    resize: Annotated[int, Ge(0)] = 0
    """Make the images squares of so many pixels, once, when they are first read; 0: as they are, all of one size."""
    data_memory: NonNegative | None = None
    """GB of images that a trial may hold, above which they are streamed from the disk; none: half of its share."""

    def problems(self) -> list[str]:
        """Those of every group, and a data set that is not known."""
        return super().problems() + check_name(self.data)


@dataclass(frozen=True, kw_only=True)
class AttackOptions(OptionGroup):
    """The poison."""

    attacks: Annotated[tuple[str, ...], MinLen(1)] = ("badnets", "blended")
    """NAME or module:Class, also with :PRESET or :SETTING=VALUE,...; or all, which lowers rates beyond an attack's, and
    leaves out defences that train where the attacker does."""
    poison_rates: Annotated[tuple[Share, ...], MinLen(1)] = (0.0, 0.005, 0.01, 0.05, 0.1)
    """Poisoned images / training set; 0 is the clean twin."""
    target: int | str = 0
    """Class that triggered images shall get: its number or its name."""
    labels: str = "all_to_one"
    """all_to_one, or all_to_all (class y becomes y + 1)."""
    victims: str = "non_target"
    """Classes that dirty-label attacks draw their victims from: non_target or all."""
    lower_rates: bool = False
    """Poison rates that an attack cannot have on the data become the largest that it can, which is printed."""

    def problems(self) -> list[str]:
        """Those of every group, and attacks that are not known."""
        return super().problems() + unknown_methods("attack", self.attacks, ATTACKS, "all")

    @property
    def every(self) -> bool:
        """Whether all attacks are asked for."""
        return "all" in self.attacks

    @property
    def lowers(self) -> bool:
        """Whether an attack takes the largest rate that it can have in the place of one that it cannot."""
        return self.lower_rates or self.every


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(OptionGroup):
    """The network."""

    model: str = "small_cnn"
    """small_cnn, resnet18, preact_resnet18, torchvision:NAME or module:function (runs that code)."""
    weights: str = ""
    """Of torchvision:NAME, to fine-tune it: FILE of pretrained weights (a state_dict), or torchvision's own by name."""
    input_size: Annotated[int, Ge(0)] = 0
    """Pixels to which torchvision:NAME resizes images inside; 0: what its weights expect, or as they are."""
    patch_size: Annotated[int, Ge(0)] = 0
    """Pixels that become one position of the first map of torchvision's ViT, ConvNeXt, DenseNet; 0: as published."""
    widths: tuple[Positive, ...] = ()
    """Complexity axis: multiplies the channels; none: 0.5 1, or 1 for a network that is not raybd's own."""
    depths: tuple[int, ...] = ()
    """Complexity axis, where the architecture has one; none: its own."""
    noise: NonNegative = 0.0
    """Standard deviation of the noise inside the network, in training and after; mutual information needs it."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(OptionGroup):
    """How it is trained, and how often."""

    defences: Annotated[tuple[str, ...], MinLen(1)] = ("none",)
    """all, NAME, NAME:PRESET or NAME:SETTING=VALUE,...: how to train; none and oracle are the ends of a comparison."""
    defence_rates: tuple[Share, ...] = ()
    """Of --poison-rates, those that defences other than none meet, besides 0: they are dear; none: all."""
    defence_weight_decays: tuple[NonNegative, ...] = ()
    """Of --weight-decays, those with which such defences train; none: all."""
    seeds: Annotated[int, Interval(ge=1, le=MOST_TRIALS)] = 3
    """Number of seeds; trials use 0, 1, ..."""
    weight_decays: tuple[NonNegative, ...] = ()
    """Complexity axis; none: 0.0005 0.02 0.05 for digits, whose trainings are short, else 0.0005 0.005."""
    epochs: Annotated[tuple[Count, ...], MinLen(1)] = (20,)
    """Complexity axis."""
    learning_rates: Annotated[tuple[Positive, ...], MinLen(1)] = (0.1,)
    """Complexity axis: the peak."""
    batch_sizes: Annotated[tuple[Annotated[int, Ge(2)], ...], MinLen(1)] = (64,)
    """Complexity axis."""
    optimizer: str = "sgd"
    """sgd or adamw."""
    schedule: str = "one_cycle"
    """one_cycle, cosine or constant."""
    crop: tuple[Annotated[int, Ge(0)], ...] = ()
    """Complexity axis: pixels of padding before a random crop; none: what is usual for the data set."""
    flip: tuple[bool, ...] = ()
    """Complexity axis: random mirroring; none: what is usual for the data set."""
    betas: Annotated[tuple[Share, ...], MinLen(1)] = (1.0,)
    """Weights of the poison in the loss; 0 trains without it, 1 as ever."""
    beta_mode: str = "sample"
    """sample (each poisoned image by beta), or batchmean (the mean over a batch's, as arXiv 2106.07214's code)."""
    patience: Annotated[int, Ge(0)] = 0
    """Stop a trial after so many epochs without a lower training loss; 0: never."""
    precision: str = "auto"
    """auto (bf16 on a GPU, fp32 on a CPU), fp32 or bf16."""
    deterministic: bool = False
    """The same bits each time on a GPU too, which costs time; on a CPU they always are."""

    def problems(self) -> list[str]:
        """Those of every group, and defences that are not known."""
        return super().problems() + unknown_methods("defence", self.defences, DEFENCES, "all")

    @property
    def defence_names(self) -> list[str]:
        """The defences one by one, each once: "all" are those of raybd."""
        names = (name for text in self.defences for name in (DEFENCES if text == "all" else [text]))
        return list(dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(OptionGroup):
    """What is measured, and when."""

    probes: tuple[Count, ...] = ()
    """Epochs to measure at besides the last; none: 1, 2, 3, 4, 8, 16, ..."""
    metrics: tuple[str, ...] = ()
    """What to measure besides accuracy: NAME or NAME:SETTING=VALUE,...; see docs/metrics.md."""

    def problems(self) -> list[str]:
        """Those of every group, and metrics that are not known."""
        return super().problems() + unknown_methods("metric", self.metrics, METRICS)


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions(OptionGroup):
    """Where trials run, on how much of it, and where their records go."""

    gpus_per_trial: NonNegative | None = None
    """GPUs a trial holds: 0.25 packs four trials on each, 2 trains one on two; none: 1 where there are any."""
    cpus_per_trial: Annotated[float, Interval(ge=0.01, lt=math.inf)] = 1.0
    """CPUs a trial holds, and its threads; with several workers, each of them."""
    workers_per_trial: Count = 1
    """Processes that train one network together, each on its share of a batch; --gpus-per-trial 2 means 2, too."""
    sync_batch_norm: bool = False
    """Batch norm over the batches of all workers (GPUs only); without it each worker normalises its own share."""
    max_concurrent: Count | None = None
    """Most trials at once; none: as many as fit."""
    stall_seconds: Annotated[float, Ge(1)] = 3600.0
    """A trial without a heartbeat (an epoch, a batch of a long measurement) for so long is killed."""
    wait_for_resources: NonNegative = 0.0
    """Seconds that an autoscaler has to bring what a trial holds (--gpus-per-trial); 0: refuse what is not there."""
    tracking_uri: str | None = None
    """MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default."""
    results: str = field(default_factory=lambda: os.environ.get("RAYBD_RESULTS", "results"))
    """Folder for trials on disk (also RAYBD_RESULTS)."""
    address: str | None = None
    """Ray to join: HOST:PORT, auto (of your `ray start` here), local (a new one); none: RAY_ADDRESS, auto or local."""
    inline: bool = False
    """Run in this process, without Ray."""
    figures: Literal["all", "first_seed", "none"] = "all"
    """Trials that draw figures: all; first_seed: one of each setting, which saves a tenth of a small trial; or none."""
    figure_formats: tuple[Literal["svg", "pdf"], ...] = ()
    """Formats in which the figures of trials are saved beside PNG."""
    keep_models: KeepModels = "none"
    """Trained networks to keep of each trial, in MLflow: the last, or all at its probes; --dry-run says how large."""
    stop_on_warning: bool = False
    """End trials early whose verdict an early warning is sure of, both ways; they are no measured results."""
    warning: str | None = None
    """File of the early warning (raybd signal NAME --fit FILE); none: raybd's own."""
    proposer: str = "list"
    """What chooses the trials to run: list (all of them), or module:Class of your own."""
    dry_run: bool = False
    """Print what would run and an estimate of the time; run nothing."""
    all: bool = False
    """With --dry-run: list every trial, not the first 20."""

    def problems(self) -> list[str]:
        """Those of every group, an address that is none, and a number of GPUs or workers that no trial can have."""
        address = [] if self.inline else address_problems(self.address)
        found = super().problems()  # a number that is none has no sum
        found += unknown_methods("proposer", (self.proposer,), PROPOSERS)
        return (found or self._worker_problems() + self.resources.problems()) + address

    @property
    def resources(self) -> Resources:
        """What a trial holds of the machine."""
        return Resources(self.cpus_per_trial, self.gpus_per_trial, self.max_concurrent, self.workers)

    @property
    def at_once(self) -> int:
        """Most trials that this machine runs at a time."""
        if self.inline:
            return 1
        fitting = max(1, int(cpu_count() / (self.cpus_per_trial * self.workers)))
        return min(fitting, self.max_concurrent or fitting)

    @property
    def workers(self) -> int:
        """How many processes train one network together: one a GPU where a trial holds several."""
        return max(self.workers_per_trial, int(self.gpus_per_trial or 0), 1)

    def _worker_problems(self) -> list[str]:
        """What trials of several workers cannot have."""
        if self.workers == 1:
            return ["--sync-batch-norm needs several workers (--workers-per-trial)"] * self.sync_batch_norm
        found = ["--inline runs a trial in one process: it cannot have several workers"] * self.inline
        if self.gpus_per_trial and self.workers_per_trial not in (1, self.gpus_per_trial):
            given = f"--workers-per-trial {self.workers_per_trial} with --gpus-per-trial {self.gpus_per_trial:g}"
            found.append(f"{given}: each worker has one GPU, or none (--gpus-per-trial 0)")
        return found
