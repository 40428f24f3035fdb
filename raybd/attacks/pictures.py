"""Pictures in files that triggers are made of."""

import io
import warnings

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from raybd.errors import InputError
from raybd.utils.files import read_content


def read_picture(path: str) -> Image.Image:
    """The picture at `path`, in RGB.

    Raises:
        InputError: there is no such file, or it is no picture that Pillow reads.
    """
    content = read_content(path, "picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as opened:
                return opened.convert("RGB")
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is no picture that Pillow knows") from error
    except Exception as error:  # Pillow's decoders raise whatever the bytes suggest
        raise InputError(f"the picture {path} cannot be used: {type(error).__name__}: {error}") from error


def resized_picture(path: str, height: int, width: int) -> Tensor:
    """(3, height, width) float, whole numbers from 0 to 255: the picture at `path` as torchvision's `Resize` makes it.

    Raises:
        InputError: as `read_picture`.
    """
    small = read_picture(path).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float()
