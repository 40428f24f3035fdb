"""What a person can say to a sweep, and the list of trials that comes of it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, TypeVar

import tyro

from raybd.attacks import ATTACKS, Attack, NoAttack, parse
from raybd.data import augmentation, check_name
from raybd.data.subset import parse as parse_data
from raybd.defences import DEFENCES
from raybd.errors import InputError
from raybd.execution.resources import Resources
from raybd.metrics import METRICS
from raybd.models import MODELS
from raybd.plugins import parse as parse_plugin
from raybd.plugins import unknown
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.records import check_name as check_sweep_name

DECAYS = {"digits": (5e-4, 0.05)}  # 420 steps regularise little: the edge of the map lies at large values
USUAL_DECAYS = (5e-4, 5e-3)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options common to all sweeps. Lists are axes: every combination of their values is a trial."""

    name: str = "ib"
    """Name of the sweep and of its MLflow experiment; a run with the same name resumes."""
    preset: str = "quick"
    """Defaults for everything else: quick (digits on a laptop), or another of this script; a wrong name lists them."""
    data: str = "digits"
    """digits, mnist, fashion_mnist, cifar10, cifar100, gtsrb, svhn, npz:PATH or folder:PATH."""
    data_root: str | None = field(default_factory=lambda: os.environ.get("RAYBD_DATA"))
    """Folder with the data sets (also RAYBD_DATA)."""
    validation: float = 0.0
    """Share of the training set to set aside."""
    model: str = "small_cnn"
    """small_cnn, resnet18, preact_resnet18, torchvision:NAME or module:function (runs that code)."""
    attacks: tuple[str, ...] = ("badnets", "blended")
    """NAME, NAME:PRESET, NAME:SETTING=VALUE,... or all, which lowers rates that an attack cannot have."""
    poison_rates: tuple[float, ...] = (0.0, 0.005, 0.01, 0.05, 0.1)
    """Poisoned images / training set; 0 is the clean twin."""
    target: int = 0
    """Class that triggered images shall get."""
    labels: str = "all_to_one"
    """all_to_one, or all_to_all (class y becomes y + 1)."""
    victims: str = "non_target"
    """Whom dirty-label attacks draw from: non_target or all."""
    defences: tuple[str, ...] = ("none",)
    """NAME, NAME:PRESET or NAME:SETTING=VALUE,...: how to train; none and oracle are the ends of a comparison."""
    seeds: int = 3
    """Number of seeds; trials use 0, 1, ..."""
    weight_decays: tuple[float, ...] = ()
    """Complexity axis; none: 0.0005 0.05 for digits, whose trainings are short, else 0.0005 0.005."""
    widths: tuple[float, ...] = ()
    """Complexity axis: multiplies the channels; none: 0.5 1, or 1 for a network that is not raybd's own."""
    depths: tuple[int, ...] = ()
    """Complexity axis, where the architecture has one; none: its own."""
    epochs: tuple[int, ...] = (20,)
    """Complexity axis."""
    learning_rates: tuple[float, ...] = (0.1,)
    """Complexity axis: the peak."""
    batch_sizes: tuple[int, ...] = (64,)
    """Complexity axis."""
    optimizer: str = "sgd"
    """sgd or adamw."""
    schedule: str = "one_cycle"
    """one_cycle, cosine or constant."""
    crop: tuple[int, ...] = ()
    """Complexity axis: pixels of padding before a random crop; none: what is usual for the data set."""
    flip: tuple[bool, ...] = ()
    """Complexity axis: random mirroring; none: what is usual for the data set."""
    betas: tuple[float, ...] = (1.0,)
    """Weights of the poison in the loss; 0 trains without it, 1 as ever."""
    beta_mode: str = "sample"
    """sample (each poisoned image by beta), or batchmean (the mean over a batch's, as arXiv 2106.07214's code)."""
    patience: int = 0
    """Stop a trial after so many epochs without a lower training loss; 0: never."""
    precision: str = "auto"
    """auto (bf16 on a GPU, fp32 on a CPU), fp32 or bf16."""
    probes: tuple[int, ...] = ()
    """Epochs to measure at besides the last; none: 1, 2, 3, 4, 8, 16, ..."""
    metrics: tuple[str, ...] = ()
    """What to measure besides accuracy: NAME or NAME:SETTING=VALUE,...; see docs/metrics.md."""
    noise: float = 0.0
    """Deviation of the noise inside the network, in training and after; mutual information needs it."""
    gpus_per_trial: float | None = None
    """GPUs a trial holds: 0.25 packs four trials on each, 2 trains one on two; none: 1 where there are any."""
    cpus_per_trial: float = 1.0
    """CPUs a trial holds, and its threads; with several workers, each of them."""
    workers_per_trial: int = 1
    """Processes that train one network together, each on its share of a batch; --gpus-per-trial 2 means 2, too."""
    sync_batch_norm: bool = False
    """Batch norm over the batches of all workers (GPUs only); without it each worker normalises its own share."""
    max_concurrent: int | None = None
    """Most trials at once; none: as many as fit."""
    stall_seconds: float = 3600.0
    """A trial without a sign of life (an epoch, a batch of a long measurement) for so long is ended."""
    tracking_uri: str | None = None
    """MLflow tracking URI; none: MLFLOW_TRACKING_URI or MLflow's own default."""
    results: str = field(default_factory=lambda: os.environ.get("RAYBD_RESULTS", "results"))
    """Folder for trials on disk (also RAYBD_RESULTS)."""
    address: str | None = None
    """Ray to join: auto, HOST:PORT or local; none: one that runs here (also RAY_ADDRESS), else a new one."""
    inline: bool = False
    """Run in this process, without Ray."""
    dry_run: bool = False
    """Print the trials and an estimate of the time; run nothing."""

    def problems(self) -> list[str]:
        """Everything wrong with the options themselves; a trial's own checks come later."""
        found = check_sweep_name(self.name) + check_name(self.data)
        found += unknown("metric", [text.partition(":")[0] for text in self.metrics], METRICS)
        found += unknown("defence", [text.partition(":")[0] for text in self.defences], DEFENCES)
        found += unknown("attack", [text.partition(":")[0] for text in self.attacks], [*ATTACKS, "all"])
        axes = "attacks defences poison_rates epochs learning_rates batch_sizes betas".split()
        found += [f"--{axis.replace('_', '-')} needs at least one value" for axis in axes if not getattr(self, axis)]
        limits = {"seeds": 1, "cpus_per_trial": 0.01, "gpus_per_trial": 0, "stall_seconds": 1, "workers_per_trial": 1}
        found += [
            f"--{name.replace('_', '-')} {getattr(self, name)} must be at least {least}"
            for name, least in limits.items()
            if getattr(self, name) is not None and getattr(self, name) < least
        ]
        if self.max_concurrent is not None and self.max_concurrent < 1:
            found.append(f"--max-concurrent {self.max_concurrent} must be at least 1")
        return found + self._worker_problems() + Resources(gpus=self.gpus_per_trial).problems()

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

    def configs(self) -> list[TrialConfig]:
        """Every trial of the sweep, clean twins first.

        Raises:
            InputError: with everything wrong with the options.
        """
        if found := self.problems():
            raise InputError(found)
        return self._trials()

    def _trials(self) -> list[TrialConfig]:
        metrics = tuple(parse_plugin("metric", METRICS, text) for text in self.metrics)
        defences = [parse_plugin("defence", DEFENCES, text) for text in dict.fromkeys(self.defences)]
        return [
            TrialConfig(
                data=self.data,
                validation=self.validation,
                attack=attack,
                poison_rate=rate,
                model=ModelConfig(name=self.model, width=width, depth=depth, noise=self.noise),
                train=train if rate else replace(train, beta=1.0, beta_mode="sample"),  # there is nothing to weight
                probes=self.probes,
                metrics=metrics,
                defence=defence,
                seed=seed,
            )
            for rate, attack, defence, seed, width, depth, train in product(
                self._rates(),
                self._attacks(),
                defences,
                self._seeds(),
                self.widths or ((0.5, 1.0) if self.model in MODELS else (1.0,)),
                self.depths or (None,),
                self._trainings(),
            )
            if not (isinstance(attack, NoAttack) and rate > 0)
        ]

    def _rates(self) -> list[float]:
        return sorted(self.poison_rates)

    def _seeds(self) -> Sequence[int]:
        return range(self.seeds)

    def _attacks(self) -> list[Attack]:
        names = dict.fromkeys(n for text in self.attacks for n in (ATTACKS if text == "all" else [text]))
        common = {"target": self.target, "labels": self.labels, "victims": self.victims}
        return [parse(name, **common) for name in names]

    def _trainings(self) -> list[TrainConfig]:
        crop, flip = augmentation(self.data)
        fixed: dict[str, Any] = {
            "optimizer": self.optimizer,
            "beta_mode": self.beta_mode,
            "schedule": self.schedule,
            "patience": self.patience,
            "precision": self.precision,
            "workers": self.workers,
            "sync_batch_norm": self.sync_batch_norm,
        }
        decays = self.weight_decays or DECAYS.get(parse_data(self.data)[0], USUAL_DECAYS)
        axes: dict[str, Sequence[Any]] = {
            "weight_decay": decays,
            "epochs": self.epochs,
            "learning_rate": self.learning_rates,
            "batch_size": self.batch_sizes,
            "crop": self.crop or (crop,),
            "flip": self.flip or (flip,),
            "beta": self.betas,
        }
        return [TrainConfig(**dict(zip(axes, at, strict=True)), **fixed) for at in product(*axes.values())]


def distinct(values: Iterable[T]) -> list[T]:
    """Each of `values` once, in their order."""
    return list(dict.fromkeys(values))


def read(presets: Mapping[str, SweepOptions], args: list[str]) -> SweepOptions:
    """The options that `args` give over the preset they name.

    Raises:
        InputError: the preset is unknown.
    """
    names = [after for before, after in zip(args, args[1:], strict=False) if before == "--preset"]
    names += [arg.removeprefix("--preset=") for arg in args if arg.startswith("--preset=")]
    if found := unknown("preset", names, presets):
        raise InputError(found)
    preset = presets[names[-1] if names else "quick"]
    return tyro.cli(type(preset), default=preset, args=args)
