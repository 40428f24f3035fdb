"""Contents of the files that a trial draws on: pictures, features, a user's modules, what a network reads."""

from collections.abc import Sequence
from dataclasses import replace

from raybd.attacks import Attack
from raybd.defences import Defence
from raybd.errors import InputError
from raybd.models import built_content, is_user_function
from raybd.trials.config import (
    MODEL_BUILT,
    MODEL_SOURCE,
    MODEL_WEIGHTS,
    SCRIPT,
    SCRIPT_FUNCTION,
    Contents,
    TrialConfig,
)
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
        parts = (config.attack, config.defence, config.model, config.script, config.image_set)
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
    if is_user_function(config.model.name) and (source := source_hash(config.model.name.partition(":")[0])):
        found[MODEL_SOURCE] = source
    return found


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
    named |= {MODEL_BUILT: f"what {config.model.name} reads when it is built"}
    changed = [name for name, content in config.contents if now.get(name) != content]
    return [f"{named.get(name, name)} has changed since the trial was planned ({name})" for name in changed]
