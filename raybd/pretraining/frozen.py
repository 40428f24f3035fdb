"""Features of networks that are not trained here, computed once for each set of images."""

import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models import Classifier
from raybd.pretraining.backbones import PREFIX, Frozen, OwnFunction, backbone
from raybd.pretraining.hashing import Weights, add, hash_of, replace_file, weights_of
from raybd.pretraining.tables import TABLES, table_features
from raybd.utils.locks import once

log = logging.getLogger(__name__)
FORMAT = 1  # another number makes all features be computed anew
CHUNK = 256  # images at a time
Beat = Callable[[], None]
Extractor = Classifier | Frozen | OwnFunction  # all that tells features of any images


def frozen_features(
    source: str | Classifier,
    x: Tensor,
    *,
    weights: str = "",
    seed: int = 0,
    side: int | None = None,
    cache_folder: Path | None = None,
    heartbeat: Beat = lambda: None,
) -> Tensor:
    """The features (N, D) float32, on the device of `x`, that `source` has for the images `x` (N, C, H, W) uint8.

    `source` is a Classifier, or what `extractor` takes with `weights`, `seed` and `side`, or the path of a .npy or
    .npz file of rows (see `tables`). Features that are computed are kept in `cache_folder`, where that can be written
    to, by the pixels and by what computes them.

    Raises:
        InputError: there is no such source, or it fails, or its features are not one row of finite numbers an image.
    """
    if isinstance(source, str) and source.endswith(TABLES):
        return _checked(source, table_features(Path(source).expanduser(), x.cpu()), len(x)).to(x.device)
    function = extractor(source, weights=weights, seed=seed, side=side) if isinstance(source, str) else source
    name = source if isinstance(source, str) else type(source).__name__
    identity = _identity(function)
    if cache_folder is None or not identity:
        return _checked(name, embed(function, x, heartbeat), len(x))
    digest = sha256(f"{FORMAT} {identity} {x.device.type}".encode())
    add(digest, x)
    return _kept(cache_folder / "features" / f"{digest.hexdigest()[:16]}.pt", name, function, x, heartbeat)


def extractor(source: str, *, weights: str = "", seed: int = 0, side: int | None = None) -> Extractor:
    """What tells the features of any images: `embed` calls it.

    `source` is "torchvision:NAME", its `weights` a file that torch.save(network.state_dict()) wrote or "random"
    (drawn from `seed`), images resized to `side` pixels (None: to those of its published weights, or not at all
    where they are random); or "module:function", which runs the user's own code.

    Raises:
        InputError: there is no such network, function or file, or they do not fit; nothing is ever downloaded.
    """
    if source.startswith(PREFIX):
        return backbone(source.removeprefix(PREFIX), weights, seed, side)
    if ":" in source:
        return OwnFunction(source)
    raise InputError(
        f"features come from {PREFIX}NAME, module:function or a {' or '.join(TABLES)} file, not {source!r}"
    )


@torch.no_grad()  # not inference_mode: what is trained on the features could not be
def embed(function: Extractor, x: Tensor, heartbeat: Beat = lambda: None) -> Tensor:
    """What `function` makes of the images `x` (N, C, H, W) uint8, a part at a time: (N, D) float32.

    Of a Classifier, what its head reads. A network is put into evaluation mode and on the device of `x`.
    """
    if isinstance(function, nn.Module):
        function.eval().to(x.device)
    parts = []
    for part in x.split(CHUNK):
        parts.append(_part(function, part).float())
        heartbeat()
    return torch.cat(parts)


def _part(function: Extractor, x: Tensor) -> Tensor:
    if isinstance(function, Classifier):
        return function.features(function.normalise(x.float() / 255))
    return function(x)


def _checked(name: str, features: Tensor, n: int) -> Tensor:
    if features.ndim != 2 or len(features) != n:
        raise InputError(f"features of {name} must be ({n}, D), one row an image, got {tuple(features.shape)}")
    if bad := int((~features.isfinite()).any(1).sum()):
        raise InputError(f"features of {name} must be finite; {bad} of {n} rows are not")
    return features


def _identity(function: Extractor) -> str:
    """What `function` is, by content; empty if nobody can tell."""
    if isinstance(function, OwnFunction):
        return function.identity
    state: Weights = weights_of(function) if isinstance(function, Classifier) else function.state_dict()
    return f"{function!r} {hash_of(state)}"


def _kept(file: Path, name: str, function: Extractor, x: Tensor, heartbeat: Beat) -> Tensor:
    found: list[Tensor] = []

    def load() -> bool:
        if not found and file.exists():
            try:
                found.append(torch.load(file, map_location=x.device, weights_only=True))
            except Exception as error:  # noqa: BLE001 - a broken file raises whatever its bytes suggest
                log.warning("the features in %s cannot be read (%s): they are computed anew", file, error)
        return bool(found)

    def compute() -> None:
        file.unlink(missing_ok=True)
        found.append(_checked(name, embed(function, x, heartbeat), len(x)))
        replace_file(file, lambda part: torch.save(found[0], part))

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        once(load, compute, file.with_suffix(".lock"), heartbeat)
    except OSError as error:
        log.warning("features cannot be kept in %s (%s): they are computed for this trial alone", file.parent, error)
    return found[0] if found else _checked(name, embed(function, x, heartbeat), len(x))
