"""Data sets and configs packed as arrays, which Ray keeps in shared memory and workers read without a copy."""

import json
import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

from raybd.data import load
from raybd.data.residency import streamed
from raybd.errors import InputError
from raybd.pixels import is_streamed
from raybd.trials.config import TrialConfig
from raybd.types import Data, Images, Origin

_EMPTY = Images(torch.empty((0, 1, 1, 1), dtype=torch.uint8), torch.empty(0, dtype=torch.int64))


def pack_data(data: Data) -> dict[str, Any]:
    """`data` with its tensors as arrays; of a set that is streamed only where it comes from.

    Raises:
        InputError: it is streamed from nowhere that another process could find.
    """
    if is_streamed(data.train.x):
        if data.origin is None:
            raise InputError(f"{data.name} is streamed, and comes from no name that workers could load: use --inline")
        return {"origin": data.origin, "fingerprint": data.fingerprint}
    halves = {"train": data.train, "test": data.test}
    arrays = {name: (half.x.numpy(), half.y.numpy()) for name, half in halves.items()}
    return {"data": replace(data, train=_EMPTY, test=_EMPTY), "arrays": arrays}


def unpack_data(packed: dict[str, Any]) -> Data:
    """The data that `pack_data` packed; of a set that is streamed from the cache of this machine, which is made first.

    Raises:
        InputError: this machine has other images under that name, or none.
    """
    if "origin" in packed:
        return _streamed(packed["origin"], packed["fingerprint"])
    halves = {name: Images(_tensor(x), _tensor(y)) for name, (x, y) in packed["arrays"].items()}
    data: Data = replace(packed["data"], **halves)
    return data


@cache
def _streamed(origin: Origin, fingerprint: str) -> Data:
    found = streamed(load(origin.name, origin.root, origin.resize))
    if found.fingerprint != fingerprint:
        raise InputError(f"{origin.name} under {origin.root} is {found.fingerprint} on this machine, not {fingerprint}")
    return found


def _tensor(array: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about a read-only array; nothing writes to it
        return torch.from_numpy(array)


def pack_configs(configs: Iterable[TrialConfig]) -> dict[str, np.ndarray]:
    """Configs by their keys: the sorted keys (N,), the end of each one's JSON (N,), and all JSON in a row (bytes,)."""
    texts = {config.key.encode(): json.dumps(config.to_dict()).encode() for config in configs}
    keys = sorted(texts)
    return {
        "keys": np.array(keys, dtype="S16"),
        "ends": np.cumsum([len(texts[key]) for key in keys], dtype=np.int64),
        "text": np.frombuffer(b"".join(texts[key] for key in keys), dtype=np.uint8),
    }


def unpack_config(packed: dict[str, np.ndarray], key: str) -> TrialConfig:
    """The config with this key."""
    place = int(np.searchsorted(packed["keys"], key.encode()))
    start = int(packed["ends"][place - 1]) if place else 0
    return TrialConfig.from_dict(json.loads(packed["text"][start : int(packed["ends"][place])].tobytes()))
