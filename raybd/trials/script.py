"""A trial of a user's own training: poisoned data are written for it, it trains and predicts, predictions are counted.

raybd knows nothing of what is trained. The data for `train` are the poisoned training images and the clean test images;
those for `predict` are the same training images, and as test images the clean ones followed by the triggered ones. A
clean twin is trained once for all attacks: the folder that its training left is kept for their triggers.
"""

import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from raybd.attacks.poisoning import PoisonSpec
from raybd.defences import NoDefence
from raybd.errors import InputError, ScriptError
from raybd.metrics.accuracy import accuracies, class_accuracies, undertrained
from raybd.metrics.base import History
from raybd.pixels import is_streamed
from raybd.plugins import unknown
from raybd.scripts.command import run_command
from raybd.scripts.config import ScriptConfig, fill, variables
from raybd.scripts.layouts import LAYOUTS, data_path
from raybd.scripts.predictions import read_predictions, scores_of
from raybd.trials.base import TrialKind, TrialResult, TrialSession, poisoned_sets, result_of
from raybd.trials.config import TrialConfig
from raybd.trials.twins import SCRIPT_ENTRY, twin_of
from raybd.types import Data, Images, MetricContext, Poisoned, Report
from raybd.utils.cache import compute_once
from raybd.utils.metric_names import PREDICT_SECONDS, SECONDS, TRAIN_SECONDS

if TYPE_CHECKING:  # slow to import, and only drawing needs it
    from matplotlib.figure import Figure


class ScriptTraining(TrialKind):
    """A training by the user's own commands or function: one report, of what it predicts."""

    overhead = 0.5

    def problems(self, config: TrialConfig) -> list[str]:
        """Commands that lack a name, and what only a network of raybd's has."""
        if config.script is None:
            return ["model script needs a script: TrialConfig(script=ScriptConfig(...))"]
        found = config.script.problems() + unknown("layout", [config.script.layout], LAYOUTS)
        found += ["a user's script has no defence of raybd's"] * (not isinstance(config.defence, NoDefence))
        found += ["a user's script is measured by its predictions alone: no metrics"] * bool(config.metrics)
        found += ["a user's script has no epochs to probe"] * bool(config.probes)
        found += ["a user's script is one process of raybd's: no workers"] * (config.train.workers > 1)
        if config.attack.needs_the_loop():
            found.append("this attack poisons each epoch anew, and a user's script is given its data once")
        return found

    def data_problems(self, config: TrialConfig, data: Data) -> list[str]:
        """A set that is streamed, or that its layout cannot hold."""
        if is_streamed(data.train.x):
            return [f"a user's script is given copies of the images, and {data.name} is streamed: raise --data-memory"]
        assert config.script is not None
        if config.script.layout.endswith("mnist") and data.train.shape[0] != 1:
            return [f"layout {config.script.layout} is of grey images, and {data.name} has colours"]
        return []

    def run(self, config: TrialConfig, data: Data, session: TrialSession, start: float) -> TrialResult:
        """One report, of what was predicted for the clean and for the triggered test images."""
        data = data.to("cpu")
        poisoned, triggered = poisoned_sets(config, data)
        true = data.test.y.repeat(len(triggered) // len(data.test))
        wanted = Images(torch.cat([data.test.x, triggered.x]), torch.cat([data.test.y, true]))
        with tempfile.TemporaryDirectory(prefix="work-", dir=session.folder) as folder:
            work = Work(config, data, session, Path(folder))
            scores, numbers = work.call(poisoned, wanted) if session.function else work.run(poisoned, wanted)
        context = _metric_context(config, data, poisoned, triggered, scores)
        parts = (accuracies, class_accuracies, undertrained)
        metrics = numbers | {SECONDS: time.perf_counter() - start}
        metrics |= {name: value for part in parts for name, value in part(context).items()}
        session.report(Report(1, metrics))
        return result_of(context, metrics, {})

    def cost_key(self, config: TrialConfig) -> tuple[object, ...]:
        """Data and commands."""
        return config.image_set, config.script

    def unit_seconds(self, config: TrialConfig, data: Data) -> float:
        """Not known before it has run: nan."""
        return float("nan")

    def units(self, config: TrialConfig, data: Data) -> float:
        """One training."""
        return 1.0

    def figures(self, history: History, title: str) -> "dict[str, Figure]":
        """None: nothing is known of the training."""
        return {}


@dataclass(frozen=True)
class Work:
    """The temporary folder of a trial, in which data, what was learnt and predictions lie."""

    config: TrialConfig
    data: Data  # on the CPU
    session: TrialSession
    folder: Path

    @property
    def script(self) -> ScriptConfig:
        """The user's training."""
        assert self.config.script is not None
        return self.config.script

    def run(self, poisoned: Poisoned, wanted: Images) -> tuple[Tensor, dict[str, float]]:
        """(n, K) scores of the images `wanted` by the user's commands, and the seconds that they took.

        Raises:
            ScriptError: a command failed, or its predictions are of no use.
        """
        if self.script.is_function:
            raise InputError(f"{self.script.train} is a Python function, which is not here: call raybd.resist with it")
        seconds: dict[str, float] = {}
        out = self._out(poisoned, seconds)
        order = self._write("predict", poisoned.images, wanted)
        predictions = self.folder / "predictions"
        seconds[PREDICT_SECONDS] = self._command("predict", out)
        scores = read_predictions(predictions, len(wanted), self.data.classes)
        back = torch.empty_like(scores)
        back[torch.tensor(order)] = scores
        return back, seconds

    def call(self, poisoned: Poisoned, wanted: Images) -> tuple[Tensor, dict[str, float]]:
        """The same by the user's Python function.

        Raises:
            ScriptError: the function raised, or its predictions are of no use.
        """
        function, start = self.session.function, time.perf_counter()
        assert function is not None
        try:
            predict = function(
                _array(poisoned.images), poisoned.images.y.numpy(), self.config.seed, **dict(self.script.knobs)
            )
            trained = time.perf_counter()
            found = np.asarray(predict(_array(wanted)))
        except Exception as error:
            raise ScriptError(f"{self.script.train} raised {type(error).__name__}: {error}") from error
        seconds = {TRAIN_SECONDS: trained - start, PREDICT_SECONDS: time.perf_counter() - trained}
        return scores_of(found, len(wanted), self.data.classes), seconds

    def _out(self, poisoned: Poisoned, seconds: dict[str, float]) -> Path:
        """The folder that `train` left, of a clean twin that which an earlier trial's left."""
        train = partial(self._train, poisoned, seconds)
        if self.config.poison_rate or self.session.shared is None:
            return train()
        entry = self.session.shared / "twins" / twin_of(self.config).key / SCRIPT_ENTRY
        beat = self.session.heartbeat
        return compute_once(entry, train, load=partial(_unpack, self.folder), save=_pack, heartbeat=beat)

    def _train(self, poisoned: Poisoned, seconds: dict[str, float]) -> Path:
        out = self.folder / "out"
        out.mkdir()
        self._write("train", poisoned.images, self.data.test)
        seconds[TRAIN_SECONDS] = self._command("train", out)
        return out

    def _write(self, what: str, train: Images, test: Images) -> list[int]:
        """Write the data of a command; the order in which its layout lists the test images."""
        (self.folder / what).mkdir()
        where = data_path(self.script.layout, self.folder / what)
        order = LAYOUTS[self.script.layout](where, train, test, self.data.classes)
        self.session.heartbeat()
        return order

    def _command(self, what: str, out: Path) -> float:
        script, data = self.script, data_path(self.script.layout, self.folder / what)
        settings: dict[str, object] = {**dict(script.knobs), "seed": self.config.seed}
        paths = {"data": data, "out": out, "predictions": self.folder / "predictions"}
        threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        return run_command(
            what,
            fill(script.commands[what], settings | paths),
            (self.session.folder or self.folder) / f"{what}.log",
            folder=script.folder,
            environment=variables(settings) | threads,
            limit=script.time_limit,
            heartbeat=self.session.heartbeat,
        )


def _metric_context(
    config: TrialConfig, data: Data, poisoned: Poisoned, triggered: Images, scores: Tensor
) -> MetricContext:
    return MetricContext(
        model=nn.Identity(),  # what was trained is the user's
        data=data,
        poisoned=poisoned,
        triggered=triggered,
        measured=PoisonSpec(config.attack, config.poison_rate, config.seed).measured(data.test.y),
        clean_logits=scores[: len(data.test)],
        triggered_logits=scores[len(data.test) :],
        members=tuple(member.name for member in config.attack.members()),
        seed=config.seed,
    )


def _array(images: Images) -> Any:
    """(N, H, W) uint8, or (N, H, W, C) where there are colours."""
    x = images.x.numpy()
    return x[:, 0].copy() if x.shape[1] == 1 else np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _pack(out: Path, path: Path) -> None:
    with tarfile.open(path, "w") as file:
        file.add(out, arcname="out")


def _unpack(folder: Path, path: Path) -> Path:
    with tarfile.open(path) as file:
        file.extractall(folder, filter="data")
    return folder / "out"


Function = Callable[..., Any]  # train(images, labels, seed, **knobs) -> predict(images) -> labels or scores
