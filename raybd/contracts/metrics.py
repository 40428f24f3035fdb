"""What every metric promises: `check_metric(MyMetric())` in a test of your own."""

import copy
import json
import math
import re
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from raybd.attacks import BadNets
from raybd.attacks.poisoning import PoisonSpec
from raybd.contracts.promises import Check, made_images, promise
from raybd.data.describe import describe as describe_data
from raybd.data.reader import RawData
from raybd.metrics import METRICS, Metric
from raybd.models import build_model
from raybd.plugins import build, describe, parse, spec
from raybd.training import TrainConfig, fit
from raybd.types import Data, MetricContext

CLASSES = 4
NOISE = 0.4  # inside the network, so that information can be measured
NAME = re.compile(r"[\w\-. :/]+")  # MLflow refuses others


@dataclass(frozen=True)
class Case:
    """One metric at one probe of a small network that was trained on poisoned images."""

    metric: Metric

    @cached_property
    def data(self) -> Data:
        """Random images."""
        names = tuple(f"class {number}" for number in range(CLASSES))
        return describe_data("made", RawData(made_images(400), made_images(400, seed=1), names))

    @cached_property
    def context(self) -> MetricContext:
        """What the metric is given."""
        recipe = PoisonSpec(BadNets(), 0.2, 0)
        poisoned = recipe.poison(self.data.train, CLASSES)
        triggered = recipe.triggered(self.data.test, CLASSES)
        model, twin = self._network(), self._network()
        list(fit(model, poisoned.images, TrainConfig(epochs=1, batch_size=64, learning_rate=0.02), 0))
        return MetricContext(
            model=model.eval(),
            data=self.data,
            poisoned=poisoned,
            triggered=triggered,
            measured=recipe.measured(self.data.test.y),
            clean_logits=_logits(model, self.data.test.x),
            triggered_logits=_logits(model, triggered.x),
            twin=twin.eval(),
            trigger=recipe,
        )

    def _network(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build_model("small_cnn", (1, 8, 8), CLASSES, self.data.mean, self.data.std, width=0.25, noise=NOISE)


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(x.float() / 255)
    return logits


def check_metric(metric: Metric) -> None:
    """Everything that a trial relies on.

    Raises:
        BrokenPromiseError: the metric breaks a promise.
    """
    case = Case(metric)
    for check in CHECKS.values():
        check(case)


def check_settings(case: Case) -> None:
    """Settings go through JSON, and through a command line, and come back equal."""
    built = build("metric", METRICS, json.loads(json.dumps(spec(METRICS, case.metric))))
    promise(built == case.metric, f"{case.metric} comes back from its record as {built}")
    text = describe(METRICS, case.metric)
    promise(parse("metric", METRICS, text) == case.metric, f"{text} is read as another metric")


def check_usable(case: Case) -> None:
    """It can be measured on small grey images, with a network that has noise inside."""
    problems = case.metric.problems(case.data, NOISE)
    promise(not problems, "; ".join(problems))


def check_numbers(case: Case) -> None:
    """It measures at least one number or tensor; names are of letters, digits, spaces, _ - . : /; none is nan."""
    found = case.metric.measure(case.context)
    promise(bool(found), "nothing is measured after the last epoch")
    bad = [name for name in found if not (isinstance(name, str) and NAME.fullmatch(name))]
    promise(not bad, f"names that MLflow refuses: {', '.join(map(repr, bad))}")
    kinds = [name for name, value in found.items() if not isinstance(value, int | float | Tensor)]
    promise(not kinds, f"neither a number nor a tensor: {', '.join(kinds)}")
    lost = [name for name, value in found.items() if not isinstance(value, Tensor) and not math.isfinite(value)]
    promise(not lost, f"no finite number: {', '.join(lost)}; leave out what cannot be measured")


def check_again(case: Case) -> None:
    """It measures the same numbers again, whatever was drawn meanwhile."""
    first = case.metric.measure(case.context)
    torch.rand(1)
    second = case.metric.measure(case.context)
    other = [name for name in first if not _equal(first[name], second.get(name))]
    promise(not other and set(first) == set(second), f"measured again, others: {', '.join(other)}; draw from a stream")


def check_network_kept(case: Case) -> None:
    """The network's weights and mode, and the global random state, are what they were."""
    model, before = case.context.model, copy.deepcopy(case.context.model.state_dict())
    state = torch.random.get_rng_state()
    case.metric.measure(case.context)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    promise(not changed, f"weights have changed: {', '.join(changed)}")
    promise(not any(part.training for part in model.modules()), "the network is left in training mode")
    promise(torch.equal(torch.random.get_rng_state(), state), "the global random state has moved: use a generator")


def _equal(one: float | Tensor, other: float | Tensor | None) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    return one == other


CHECKS: dict[str, Check[Case]] = {
    "settings": check_settings,
    "usable": check_usable,
    "numbers": check_numbers,
    "again": check_again,
    "network kept": check_network_kept,
}
