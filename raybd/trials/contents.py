"""Contents of the files that a trial draws on: pictures, features, a user's modules, what a network reads."""

from collections.abc import Sequence
from dataclasses import replace

from raybd.attacks import ATTACKS, Attack
from raybd.defences import DEFENCES, Defence
from raybd.errors import InputError
from raybd.metrics import METRICS
from raybd.models import built_content, user_module
from raybd.plugins import name_of
from raybd.trials.config import (
    MODEL_BUILT,
    MODEL_SOURCE,
    MODEL_WEIGHTS,
    SCRIPT,
    SCRIPT_FUNCTION,
    SOURCE,
    Contents,
    TrialConfig,
)
from raybd.trials.model import NETWORK
from raybd.types import Data
from raybd.utils.cache import content_hash
from raybd.utils.files import read_content
from raybd.utils.source_files import script_hash, source_hash


def with_contents(configs: Sequence[TrialConfig], data: dict[str, Data]) -> list[TrialConfig]:
    """The configs with the contents of what they draw on; each attack, defence and network is looked at once.

    Raises:
        InputError: a file cannot be read, or is not what it was when a config was given its contents.
    """
    known: dict[object, Contents] = {}
    filled, changed = [], []
    for config in configs:
        parts = (config.attack, config.defence, config.model, config.script, config.image_set, config.metrics)
        if parts not in known:
            known[parts] = contents_of(config, data[config.image_set])
        changed += _differences(config, dict(known[parts]))
        filled.append(replace(config, contents=known[parts]))
    if changed:
        raise InputError(dict.fromkeys(changed))
    return filled


def contents_of(config: TrialConfig, data: Data) -> Contents:
    """The contents of what `config` draws on, now.

    Raises:
        InputError: a file cannot be read, or has changed since it was imported.
    """
    found = _files(config)
    if MODEL_SOURCE in found:
        model = config.model
        found[MODEL_BUILT] = built_content(model.name, data.train.shape, len(data.classes), **model.network_settings)
    return tuple(sorted(found.items()))


def content_problems(config: TrialConfig, data: Data) -> list[str]:
    """What `config` was given the contents of, and has other contents now."""
    if not config.contents:
        return []
    try:
        return _differences(config, dict(contents_of(config, data)))
    except InputError as error:
        return error.problems


def check_files(config: TrialConfig) -> None:
    """Refuse a trial whose files have changed; what its network reads when it is built is not looked at.

    Raises:
        InputError: with the files.
    """
    now = _files(config) if config.contents else {}
    if found := _differences(config, now | dict(c for c in config.contents if c[0] == MODEL_BUILT)):
        raise InputError(found)


def _files(config: TrialConfig) -> dict[str, str]:
    found = {name: content_hash(read_content(path)) for name, path in _paths(config).items()}
    if config.script:
        scripts = {name: script_hash(path) for name, path in config.script.files().items()}
        found |= {f"{SCRIPT}{name}": content for name, content in scripts.items()}
        found |= {name: content for name, content in config.contents if name == SCRIPT_FUNCTION}
    module = user_module(config.model.name) if config.model.kind is NETWORK else None
    if module and (source := source_hash(module)):
        found[MODEL_SOURCE] = source
    return found | own_sources(config)


def own_sources(config: TrialConfig) -> dict[str, str]:
    """The code of every attack, defence and metric of the trial that is not raybd's, by its part of the config."""
    parts: dict[str, object] = {"attack": config.attack, "defence": config.defence}
    parts |= {
        f"attack.{place}": one.attack
        for place, one in enumerate(config.attack.members())
        if one.attack is not config.attack
    }
    parts |= {f"metrics.{name_of(METRICS, metric)}": metric for metric in config.metrics}
    tables = (ATTACKS, DEFENCES, METRICS)
    own = {part: type(one) for part, one in parts.items() if not any(type(one) in table.values() for table in tables)}
    return {f"{part}{SOURCE}": _code(cls) for part, cls in own.items()}


def _code(cls: type) -> str:
    """16 hex digits of the module that holds `cls`, and its name there."""
    return content_hash(source_hash(cls.__module__), cls.__qualname__)


def _paths(config: TrialConfig) -> dict[str, str]:
    """The files that attack, defence and network read, by the settings that name them."""
    parts: tuple[tuple[str, Attack | Defence], ...] = (("attack", config.attack), ("defence", config.defence))
    found = {f"{part}.{name}": path for part, method in parts for name, path in method.files().items()}
    weights = config.model.weights_file()
    return found | ({} if weights is None else {MODEL_WEIGHTS: str(weights)})


def _differences(config: TrialConfig, now: dict[str, str]) -> list[str]:
    if not config.contents:
        return []
    named = _paths(config) | {MODEL_SOURCE: f"the source of {config.model.name}"}
    named |= {name: f"the code of the {name.removesuffix(SOURCE)}" for name in now if name.endswith(SOURCE)}
    named |= {MODEL_BUILT: f"what {config.model.name} reads when it is built"}
    changed = [name for name, content in config.contents if now.get(name) != content]
    return [f"{named.get(name, name)} has changed since the trial was planned ({name})" for name in changed]
