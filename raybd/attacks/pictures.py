"""Pictures in files that triggers are made of."""

import io
import warnings

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from raybd.errors import InputError
from raybd.utils.files import read_content


def read_picture(path: str) -> Tensor:
    """(3, H, W) float in [0, 255] of the picture at `path`, in RGB.

    Raises:
        InputError: there is no such file, or it is no picture that Pillow reads.
    """
    content = read_content(path, "picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as opened:
                return torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1).float()
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is no picture that Pillow knows") from error
    except Exception as error:  # Pillow's decoders raise whatever the bytes suggest
        raise InputError(f"the picture {path} cannot be used: {type(error).__name__}: {error}") from error
