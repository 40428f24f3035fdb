"""The frequencies of a trigger, beside those of the images that it is stamped on."""

import torch
from torch import Tensor


def mean_spectra(clean: Tensor, triggered: Tensor) -> Tensor:
    """(2, H, W): mean over images and channels of |orthonormal 2-D DFT|, of triggered - clean and of clean.

    Args:
        clean: (N, C, H, W) uint8. Amplitudes are in grey levels, times sqrt(H W) for a wave over the whole image.
        triggered: The same images with the trigger.

    The constant is in the middle, at (H // 2, W // 2).
    """
    before, after = clean.double(), triggered.double()
    spectra = (torch.fft.fft2(x, norm="ortho").abs().mean((0, 1)) for x in (after - before, before))
    centred: Tensor = torch.fft.fftshift(torch.stack(list(spectra)), dim=(1, 2))
    return centred
