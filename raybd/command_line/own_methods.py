"""Methods of other people in a sweep: what a dry run says of their code, and names that are refused."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raybd.attacks import ATTACKS
from raybd.data import DATASETS, OWN, is_own
from raybd.data.subset import parse
from raybd.defences import DEFENCES
from raybd.execution.proposers import PROPOSERS
from raybd.metrics import METRICS
from raybd.models import MODELS, user_module
from raybd.plugins import find, name_of, split
from raybd.plugins.own import refused_names
from raybd.trials.config import TrialConfig
from raybd.trials.model import NETWORK
from raybd.utils.source_files import source_files, source_hash

Used = tuple[str, str, str]  # kind, name, module
TABLES: Mapping[str, Mapping[str, Any]] = {
    "attack": ATTACKS,
    "defence": DEFENCES,
    "metric": METRICS,
    "data set": DATASETS,
    "model": MODELS,
    "proposer": PROPOSERS,
}


def describe_own(configs: Sequence[TrialConfig], proposer: str) -> list[str]:
    """A line for each method that is not raybd's: its kind, its name, the file of its code and the hash of that."""
    used = dict.fromkeys(one for config in {c.label: c for c in configs}.values() for one in _used(config))
    name = split("proposer", PROPOSERS, proposer)[0]
    if name not in PROPOSERS:
        used |= {("proposer", name, find("proposer", PROPOSERS, name).__module__): None}
    return [f"own {kind} {name}: {_code(module)}" for kind, name, module in used]


def warn_of_refused() -> None:
    """Print a warning for each installed package that offers a method under a name of raybd's."""
    for kind, table in TABLES.items():
        for line in refused_names(kind, table):
            print(f"warning: {line}", file=sys.stderr)


def _used(config: TrialConfig) -> Iterator[Used]:
    """Every method of the trial that is not raybd's."""
    yield from _own("attack", ATTACKS, [config.attack, *(member.attack for member in config.attack.members())])
    yield from _own("defence", DEFENCES, [config.defence])
    yield from _own("metric", METRICS, config.metrics)
    if config.model.kind is NETWORK and (module := user_module(config.model.name)):
        yield "model", config.model.name, module
    if is_own(whole := parse(config.data)[0]):
        name = split("data set", DATASETS, whole)[0]
        yield "data set", name, find("data set", OWN, name).__module__


def _own(kind: str, table: Mapping[str, Any], methods: Sequence[Any]) -> Iterator[Used]:
    own = [one for one in methods if type(one) not in table.values()]
    yield from ((kind, name_of(table, one), type(one).__module__) for one in own)


def _code(module: str) -> str:
    files = source_files(module)
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{files[0]}{more}, code {source_hash(module)}" if files else f"{module}, which has no file"
