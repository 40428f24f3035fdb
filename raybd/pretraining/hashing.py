"""Hashes of tensors and weights, by which encoders and features are cached."""

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from raybd.models import Classifier

Weights = dict[str, Tensor]


def weights_of(model: Classifier) -> Weights:
    """The state of `model` without that of its head; shares memory with it."""
    head = {id(value) for value in model.head.state_dict(keep_vars=True).values()}
    state = model.state_dict(keep_vars=True)
    return {name: value.detach() for name, value in state.items() if id(value) not in head}


def add(digest: Any, values: Tensor) -> None:
    """Shape, type and bytes of `values` into `digest`."""
    digest.update(f"{tuple(values.shape)} {values.dtype}".encode())
    digest.update(values.detach().cpu().contiguous().numpy().data)


def hash_of(weights: Weights) -> str:
    """16 hex digits that stand for the names and values of `weights`."""
    digest = sha256()
    for name, value in weights.items():
        digest.update(name.encode())
        add(digest, value)
    return digest.hexdigest()[:16]


def replace_file(file: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under another name and give it the name `file`: nobody ever sees half of it."""
    part = file.with_suffix(f".{os.getpid()}")
    write(part)
    part.replace(file)
