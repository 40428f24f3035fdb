"""Whatever a person writes for a method, a model, a data set or an option: it is usable, or an InputError."""

import json
import string
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raybd.attacks import ATTACKS
from raybd.command_line.options import SweepOptions
from raybd.data import check_name
from raybd.defences import DEFENCES
from raybd.errors import InputError
from raybd.metrics import METRICS
from raybd.plugins import assignments, describe, parse
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.validate import problems
from raybd.types import Data
from raybd.utils.constraints import violations
from sweeps.ib import PRESETS
from tests.conftest import check_model

BOUNDED = settings(deadline=None, derandomize=True, max_examples=80, database=None)
TABLES: dict[str, Mapping[str, type[Any]]] = {"attack": ATTACKS, "defence": DEFENCES, "metric": METRICS}
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, 1, -1, 10**20, 10**400, 1e308, float("nan"), float("inf")])
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=4), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)
WORDS = st.text(string.printable, max_size=8)
VALUES = JSON.map(lambda value: json.dumps(value) if not isinstance(value, int) else str(value)[:4000]) | WORDS


@st.composite
def texts(draw: st.DrawFn, kind: str) -> str:
    """NAME:SETTING=VALUE,... with names and settings of the table, values of any kind, and junk between."""
    table = TABLES[kind]
    name = draw(st.sampled_from(sorted(table)))
    known = st.sampled_from([*table[name].__dataclass_fields__, *getattr(table[name], "presets", {})])
    setting = st.tuples(known | WORDS, st.sampled_from(["=", "=", "=", "", ":"]), VALUES).map("".join)
    written = draw(st.sampled_from([name, name, name, f" {name}", name[1:]]))
    return f"{written}:{','.join(draw(st.lists(setting, max_size=3)))}"


@pytest.mark.parametrize("kind", TABLES)
def test_a_method_as_text(kind: str, digits: Data) -> None:
    @BOUNDED
    @given(texts(kind))
    def check(text: str) -> None:
        try:
            made = parse(kind, TABLES[kind], text)
        except InputError:
            return
        shape, classes = digits.train.shape, len(digits.classes)
        found = violations(made) if kind == "metric" else made.check(shape, classes)
        assert all(isinstance(problem, str) for problem in found)
        if not found and kind != "metric":
            assert parse(kind, TABLES[kind], describe(TABLES[kind], made)) == made

    check()


@BOUNDED
@given(st.text(max_size=30) | st.tuples(st.sampled_from(["digits", "mnist", "npz", "folder"]), WORDS).map("".join))
def test_a_data_set_as_text(text: str) -> None:
    assert isinstance(check_name(text), list)


MODELS = st.sampled_from(["{}", "torchvision:{}", "json:{}", "{}:net"])


@BOUNDED
@given(st.tuples(MODELS, WORDS).map(lambda drawn: drawn[0].format(drawn[1])))
def test_a_model_as_text(name: str) -> None:
    assert check_model(name, (1, 8, 8), 10, 1.0, None)


@BOUNDED
@given(width=JSON, depth=JSON, noise=JSON)
def test_settings_of_a_model(width: Any, depth: Any, noise: Any) -> None:
    model = ModelConfig(width=width, depth=depth, noise=noise)
    if not model.problems():
        assert isinstance(check_model("small_cnn", (1, 8, 8), 10, model.width, model.depth, model.noise), list)


@BOUNDED
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("poison_rate", "validation", "seed", "probes", "data"), JSON)))
def test_a_config_of_python(values: dict[str, Any]) -> None:
    assert isinstance(problems(TrialConfig(**values)), list)


@BOUNDED
@given(st.data())
def test_options(data: st.DataObject) -> None:
    usual: SweepOptions = PRESETS["quick"]
    hints = {name: hint for group in usual.groups().values() for name, hint in get_type_hints(type(group)).items()}
    name = data.draw(st.sampled_from(sorted(hints)))
    inner = get_args(hints[name])
    one = WORDS if str in (hints[name], *inner) else NUMBERS
    value = data.draw(st.lists(one, max_size=2).map(tuple) if get_origin(hints[name]) is tuple else one)
    assert isinstance(usual.replace(**{name: value}).problems(), list)


@BOUNDED
@given(st.lists(st.text(max_size=6) | st.sampled_from(["attack=a", "attack=b", "rate=1"]), max_size=4))
def test_a_query_as_texts(written: list[str]) -> None:
    try:
        found = assignments("query", written)
    except InputError as error:
        assert all(problem.startswith("query: ") for problem in error.problems)  # noqa: PT017 - either is right
        return
    assert len(found) == len(written)
