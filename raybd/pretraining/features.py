"""Features of networks that are not trained here, computed once for each set of images."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models import Classifier
from raybd.models.batch_size import batch_size, batched
from raybd.pretraining.encoder_cache import encoder_weights
from raybd.pretraining.extractors import PREFIX, FrozenEncoder, UserFunction, torchvision_encoder
from raybd.pretraining.feature_files import SUFFIXES, read_features
from raybd.utils.cache import compute_once, content_hash
from raybd.utils.files import expanded
from raybd.utils.source_files import class_sources

FORMAT = 2  # of the key; another number makes all features be computed anew
CHUNK = 256  # images at a time, at most
Heartbeat = Callable[[], None]
Extractor = Classifier | FrozenEncoder | UserFunction  # computes features of any images


def frozen_features(
    source: str | Classifier,
    x: Tensor,
    *,
    weights: str = "",
    seed: int = 0,
    side: int | None = None,
    cache_folder: Path | None = None,
    heartbeat: Heartbeat = lambda: None,
) -> Tensor:
    """The features (N, D) float32 of the images `x` (N, C, H, W) uint8 by `source`, on the device of `x`.

    `source` is a Classifier, or what `extractor` takes with `weights`, `seed` and `side`, or the path of a .npy or
    .npz file of rows (see `tables`). Features that are computed are cached in `cache_folder` by the hash of the
    pixels and of what computes them.

    Raises:
        InputError: there is no such source, or it fails, or its features are not one row of finite numbers an image.
    """
    if isinstance(source, str) and source.endswith(SUFFIXES):
        return _checked(source, read_features(expanded(source), x.cpu()), len(x)).to(x.device)
    function = extractor(source, weights=weights, seed=seed, side=side) if isinstance(source, str) else source
    name = source if isinstance(source, str) else type(source).__name__

    def compute() -> Tensor:
        return _checked(name, embed(function, x, heartbeat), len(x))

    identity = _identity(function)
    if cache_folder is None or not identity:
        return compute()
    key = content_hash(f"{FORMAT} {identity} {x.device.type}", x)
    return compute_once(cache_folder / "features" / f"{key}.pt", compute, heartbeat=heartbeat).to(x.device)


def extractor(source: str, *, weights: str = "", seed: int = 0, side: int | None = None) -> Extractor:
    """The network or function that `embed` calls to compute features of any images.

    `source` is "torchvision:NAME", its `weights` a file that torch.save(network.state_dict()) wrote or "random"
    (drawn from `seed`), images resized to `side` pixels (None: to those of its published weights, or not at all
    where they are random); or "module:function", which runs the user's own code.

    Raises:
        InputError: there is no such network, function or file, or they do not fit; nothing is ever downloaded.
    """
    if source.startswith(PREFIX):
        return torchvision_encoder(source.removeprefix(PREFIX), weights, seed, side)
    if ":" in source:
        return UserFunction(source)
    raise InputError(
        f"features come from {PREFIX}NAME, module:function or a {' or '.join(SUFFIXES)} file, not {source!r}"
    )


@torch.no_grad()  # not inference_mode: what is trained on the features could not be
def embed(function: Extractor, x: Tensor, heartbeat: Heartbeat = lambda: None) -> Tensor:
    """The features (N, D) float32 of the images `x` (N, C, H, W) uint8 by `function`, computed in batches.

    Those of a Classifier are the input of its head. A network is put into evaluation mode and on the device of `x`.
    """
    if isinstance(function, nn.Module):
        function.eval().to(x.device)
    size = CHUNK
    if isinstance(function, Classifier):
        size = batch_size(function, x, CHUNK)
    elif isinstance(function, FrozenEncoder):
        size = batch_size(function.classifier, function.like(x), CHUNK)
    return batched(lambda some: _part(function, some).float(), x, size=size, heartbeat=heartbeat)


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
    """What `function` is, by content; empty if that cannot be told."""
    if isinstance(function, UserFunction):
        return function.identity
    weights = encoder_weights(function) if isinstance(function, Classifier) else function.state_dict()
    return f"{function!r} {content_hash(weights)}{class_sources(function)}"
