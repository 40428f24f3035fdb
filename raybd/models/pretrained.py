"""Weights that a torchvision network was pretrained to: from a file, or torchvision's own by their name."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raybd.errors import InputError
from raybd.models.network_files import read_state_dict
from raybd.models.weight_names import misfits
from raybd.utils.files import expanded

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation that torchvision's networks expect
SIZE = 224  # pixels, where torchvision says nothing else
HASH = re.compile(r"-([a-f0-9]+)\.")  # in the name of torchvision's files
COUNTER = "num_batches_tracked"  # of batch norms; files of old versions have none


@dataclass(frozen=True)
class Pretrained:
    """Pretrained weights of a torchvision network, by torchvision's names."""

    state: dict[str, Tensor]
    mean: tuple[float, ...]  # of each channel in [0, 1], as the network expects its images
    std: tuple[float, ...]
    size: int  # of the images in pixels, as it expects them


def weights_file(name: str, weights: str) -> Path:
    """The file of the `weights` of torchvision's network `name`, which is downloaded where they are torchvision's own.

    Raises:
        InputError: there is no such file and no such weights, or they cannot be downloaded.
    """
    path, known = expanded(weights), _known(name)
    if path.is_file():
        return path
    if weights not in known:
        own = f"torchvision's own of {name} are {', '.join(known)}" if known else f"torchvision has none of {name}"
        raise InputError(f"weights {weights}: there is no such file, and {own}")
    url = str(known[weights].url)
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not target.is_file():
        _download(url, target, weights)
    return target


def _known(name: str) -> dict[str, Any]:
    """torchvision's own weights of its network `name`, by name."""
    from torchvision import models

    try:
        return dict(models.get_model_weights(name).__members__)
    except (ValueError, KeyError):  # a network that is registered without
        return {}


def _download(url: str, target: Path, weights: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    found = HASH.search(target.name)
    try:
        torch.hub.download_url_to_file(url, str(target), found[1] if found else None, progress=False)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"torchvision's weights {weights} cannot be downloaded here ({error}): fetch {url} where that works, and "
            "name the file with --weights"
        ) from error


def load_pretrained(name: str, weights: str) -> Pretrained:
    """The `weights` of torchvision's network `name`.

    The file holds them by torchvision's names, or as a raybd network has them (`raybd model`), then with the mean and
    deviation of its images.

    Raises:
        InputError: as `weights_file`, or the file cannot be read.
    """
    state = read_state_dict(weights_file(name, weights))
    size, (mean, std) = _expected(name, weights)
    if any(key.startswith("body.") for key in state):
        mean, std = (tuple(state[part].flatten().tolist()) for part in ("mean", "std"))
        state = {key.removeprefix("body."): value for key, value in state.items() if key.startswith("body.")}
    return Pretrained(state, mean, std, _trained_size(state) or size)


def _expected(name: str, weights: str) -> tuple[int, tuple[tuple[float, ...], tuple[float, ...]]]:
    """The size, mean and deviation of images that torchvision's own weights of this name expect, else its first."""
    known = _known(name)
    if not known:
        return SIZE, IMAGENET
    preset = known.get(weights, next(iter(known.values()))).transforms()
    return int(preset.crop_size[0]), (tuple(preset.mean), tuple(preset.std))


def _trained_size(state: Mapping[str, Tensor]) -> int:
    """The side in pixels of the images that a vision transformer has positions for; 0 of another network."""
    positions, patches = state.get("encoder.pos_embedding"), state.get("conv_proj.weight")
    if positions is None or patches is None:
        return 0
    return math.isqrt(positions.shape[1] - 1) * patches.shape[-1]


def fill(body: nn.Module, pretrained: Pretrained, last: str, label: str) -> None:
    """Give `body` the pretrained weights but for those of its head `last`; on the device "meta" they are only compared.

    Raises:
        InputError: with the names that are missing, unexpected or of another size.
    """
    own, given = (
        {key: value for key, value in state.items() if not key.startswith(f"{last}.")}
        for state in (body.state_dict(), pretrained.state)
    )
    given = {key: value for key, value in own.items() if key.endswith(COUNTER)} | given
    if found := misfits(given, own):
        raise InputError(f"the weights are not those of {label}: {'; '.join(found)}")
    if not any(value.is_meta for value in own.values()):
        body.load_state_dict(given, strict=False)
