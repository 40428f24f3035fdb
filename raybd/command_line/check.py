"""The checks of `raybd check`: what a method promises, one line each."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raybd.attacks import ATTACKS, Attack
from raybd.command_line.own_methods import TABLES
from raybd.contracts import attacks, data, defences, metrics, models, proposers
from raybd.contracts.promises import made_images
from raybd.data import OWN
from raybd.defences import DEFENCES
from raybd.errors import InputError
from raybd.execution.proposers import PROPOSERS
from raybd.metrics import METRICS
from raybd.plugins import Table, parse, split, unknown
from raybd.plugins.own import GROUPS, entry_points, import_object

CLASSES: Mapping[str, Table[Any]] = {
    "attack": ATTACKS,
    "defence": DEFENCES,
    "metric": METRICS,
    "data set": OWN,
    "proposer": PROPOSERS,
}


@dataclass(frozen=True)
class Line:
    """One check: its name, whether it passed, and what was promised, or why it failed."""

    name: str
    passed: bool
    said: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.name}: {self.said}"


def kind_of(text: str) -> str:
    """The kind of the method that `text` names: attack, defence, metric, data set, model or proposer.

    Raises:
        InputError: there is no such method, it is of several kinds or of none, or it cannot be imported.
    """
    head = text.partition(":")[0]
    named = [kind for kind in GROUPS if head in TABLES[kind] or head in entry_points(kind)]
    if len(named) > 1:
        raise InputError(f"{head} names methods of several kinds ({', '.join(named)}): say which by --kind")
    return named[0] if named else _imported_kind(split("", (), text)[0])


def _imported_kind(name: str) -> str:
    """The kind of MODULE:NAME."""
    if ":" not in name:
        raise InputError(unknown("method", [name], {one for table in TABLES.values() for one in table}))
    made = import_object(name, name)
    if not isinstance(made, type) and callable(made):
        return "model"
    bases = {kind: table.base for kind, table in CLASSES.items()}
    kinds = [kind for kind, base in bases.items() if isinstance(made, type) and issubclass(made, base)]
    if not kinds:
        listed = ", ".join(f"{base.__module__.removesuffix('.base')}.{base.__name__}" for base in bases.values())
        raise InputError(f"{name} is no function that makes a network, and no class derived from one of {listed}")
    return kinds[0]


def check(kind: str, text: str) -> Iterator[Line]:
    """Every check of the method `text`, its settings as on the command line."""
    if kind == "model":
        yield from _checked(models.CHECKS, models.Case(split(kind, TABLES[kind], text)[0]))
        return
    try:
        method: Any = parse(kind, CLASSES[kind], text)
    except InputError as error:
        yield Line("loads", False, "; ".join(error.problems))
        return
    yield Line("loads", True, "It is found, and takes these settings.")
    yield from _attack(method) if kind == "attack" else _checked(*_case(kind, method))


def _case(kind: str, method: Any) -> tuple[Mapping[str, Callable[[Any], None]], Any]:
    """The checks of a kind, and what they are given."""
    if kind == "defence":
        return defences.CHECKS, defences.Case(method)
    if kind == "metric":
        return metrics.CHECKS, metrics.Case(method)
    if kind == "data set":
        return data.CHECKS, data.Case(method)
    return proposers.CHECKS, proposers.Case(lambda: replace(method))


def _attack(attack: Attack) -> Iterator[Line]:
    """The checks on images of each shape that the attack can be used on, one of them at least."""
    yield from _checked({"settings": attacks.check_settings}, attack)
    refused = {shape: attack.check(shape, attacks.CLASSES) for shape in attacks.SHAPES}
    if all(refused.values()):
        yield Line("usable", False, "; ".join(dict.fromkeys(one for found in refused.values() for one in found)))
    for shape in (shape for shape in attacks.SHAPES if not refused[shape]):
        where, case = (
            "x".join(map(str, shape)),
            attacks.Case(attack, made_images(attacks.IMAGES, shape, attacks.CLASSES)),
        )
        yield from _checked({f"{name}, {where}": one for name, one in attacks.CHECKS.items()}, case)


def _checked(checks: Mapping[str, Callable[[Any], None]], case: Any) -> Iterator[Line]:
    for name, one in checks.items():
        try:
            one(case)
        except AssertionError as error:
            yield Line(name, False, str(error))
        except Exception as error:  # noqa: BLE001 - somebody else's code
            yield Line(name, False, f"it raises {type(error).__name__}: {error}")
        else:
            yield Line(name, True, " ".join((one.__doc__ or "").split()))
