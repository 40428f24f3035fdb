"""Distances, PSNR, SSIM and frequencies against closed forms, libraries' own values, and SciPy."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from raybd.metrics.stealth.distances import changed_pixels, high_frequency, l1, l2, linf, mse, psnr
from raybd.metrics.stealth.gradients import cross_entropy, gradient_norms, margin
from raybd.metrics.stealth.ssim import ssim_reflect11, ssim_valid11
from raybd.seeds import stream

# Trigger: SSIM by scikit-image 0.26 (Wang's settings), SSIM by torchmetrics 1.9 (its defaults), PSNR by scikit-image.
LIBRARIES = {
    "corner": (0.99974919, 0.96718771, 25.206678),
    "centre": (0.87753460, 0.94211596, 25.167616),
    "blend": (0.88235990, 0.87470429, 30.185687),
    "sig": (0.69054930, 0.68169031, 25.208243),
    "linf": (0.87593313, 0.86777868, 30.069004),
}


def smooth_image() -> Tensor:
    """(3, 32, 32) float64 in [0, 1], of 8 bits, the same everywhere."""
    at = torch.arange(32, dtype=torch.float64)
    r, c = at[:, None], at[None, :]
    waves = [0.2 * (r / 5 + k).sin() * (c / 7 - k).cos() + 0.1 * ((r + 2 * c) / 4 + 2 * k).sin() for k in range(3)]
    return eight_bits(0.5 + torch.stack(waves))


def eight_bits(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255).round() / 255


def patch(top: int, left: int) -> Tensor:
    x = smooth_image()
    x[:, top : top + 3, left : left + 3] = 1
    return x


def triggered(name: str) -> Tensor:
    x, columns = smooth_image(), torch.arange(32, dtype=torch.float64)
    noise = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (3, 32, 32)) / 255)
    signs = torch.from_numpy(np.random.RandomState(1).choice([-8, 8], (3, 32, 32)) / 255)
    made = {
        "corner": patch(29, 29),
        "centre": patch(14, 14),
        "blend": 0.9 * x + 0.1 * noise,
        "sig": x + 20 / 255 * (2 * torch.pi * 6 * columns / 32).sin(),
        "linf": x + signs,
    }
    return eight_bits(made[name])


@pytest.mark.parametrize("name", LIBRARIES)
def test_quality_is_what_the_libraries_say(name: str) -> None:
    x, y = smooth_image()[None], triggered(name)[None]
    valid, reflect, ratio = LIBRARIES[name]
    assert float(ssim_valid11(x, y)) == pytest.approx(valid, abs=1e-7)
    assert float(ssim_reflect11(x, y)) == pytest.approx(reflect, abs=1e-7)
    assert float(psnr(x, y)) == pytest.approx(ratio, abs=1e-5)


def test_the_paddings_differ_a_hundredfold_on_a_corner() -> None:
    x, y = smooth_image()[None], triggered("corner")[None]
    assert (1 - ssim_reflect11(x, y)) / (1 - ssim_valid11(x, y)) > 100


def test_ssim_by_scipy() -> None:
    a, b = (torch.rand(1, 3, 20, 26, generator=stream(seed, "test"), dtype=torch.float64) for seed in (0, 1))

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, axes=(1, 2), radius=5, mode="mirror")

    x, y = a[0].numpy(), b[0].numpy()
    m, n = blur(x), blur(y)
    u, v, w = blur(x * x) - m * m, blur(y * y) - n * n, blur(x * y) - m * n
    full = (2 * m * n + 1e-4) * (2 * w + 9e-4) / ((m * m + n * n + 1e-4) * (u + v + 9e-4))
    assert float(ssim_reflect11(a, b)) == pytest.approx(full.mean(), abs=1e-12)
    assert float(ssim_valid11(a, b)) == pytest.approx(full[:, 5:-5, 5:-5].mean(), abs=1e-12)


def test_ssim_of_constants_and_of_equals() -> None:
    a, b = torch.full((1, 1, 16, 16), 0.4).double(), torch.full((1, 1, 16, 16), 0.6).double()
    for ssim in (ssim_valid11, ssim_reflect11):
        assert float(ssim(a, b)) == pytest.approx(0.92309171, abs=1e-8)
        assert float(ssim(smooth_image()[None], smooth_image()[None])) == pytest.approx(1, abs=1e-12)
    assert float(ssim_reflect11(a[..., :8, :8], b[..., :8, :8])) == pytest.approx(0.92309171, abs=1e-8)


def test_psnr_of_a_patch_has_a_closed_form() -> None:
    x = torch.full((1, 3, 32, 32), 0.1, dtype=torch.float64)
    y = x.clone()
    y[..., 29:, 29:] += 0.8
    assert float(psnr(x, y)) == pytest.approx(22.4988, abs=1e-4)
    assert float(psnr(x, y)) == pytest.approx(10 * np.log10(32 * 32 / (9 * 0.8**2)), abs=1e-9)


def test_psnr_of_noise_and_rounding() -> None:
    rng = np.random.default_rng(0)
    x = torch.full((1, 3, 256, 256), 0.5, dtype=torch.float64)
    steps = torch.from_numpy(rng.integers(-8, 9, x.shape)) / 255
    assert float(psnr(x, x + steps)) == pytest.approx(34.3287, abs=0.03)
    rounded = torch.from_numpy(rng.uniform(0, 1, x.shape))
    assert float(psnr(rounded, eight_bits(rounded))) == pytest.approx(58.92, abs=0.03)


def test_psnr_of_equal_images_has_an_end() -> None:
    assert float(psnr(smooth_image()[None], smooth_image()[None])) == 100


def test_norms_by_hand() -> None:
    x = torch.zeros(2, 3, 4, 4)
    y = x.clone()
    y[0, :, 0, 0] = torch.tensor([0.3, 0.0, -0.4])
    y[0, 1, 2, 2] = 1.2
    assert changed_pixels(x, y).tolist() == [2, 0]
    assert l1(x, y).tolist() == pytest.approx([1.9, 0])
    assert l2(x, y).tolist() == pytest.approx([1.3, 0])
    assert linf(x, y).tolist() == pytest.approx([1.2, 0])
    assert mse(x, y).tolist() == pytest.approx([1.69 / 48, 0])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 7, 10)])
def test_frequencies_by_scipy(shape: tuple[int, int, int]) -> None:
    x = torch.rand(4, *shape, generator=stream(2, "test"), dtype=torch.float64)
    energy = (dctn(x.numpy(), axes=(2, 3), norm="ortho") ** 2).sum(1)
    energy[:, 0, 0] = 0
    row, column = np.arange(shape[1])[:, None], np.arange(shape[2])[None, :]
    high = (row >= shape[1] / 2) | (column >= shape[2] / 2)
    expected = energy[:, high].sum(1) / energy.sum((1, 2))
    assert high_frequency(x).tolist() == pytest.approx(expected.tolist(), abs=1e-12)


def test_a_checkerboard_is_all_high_and_a_slow_wave_all_low() -> None:
    at = torch.arange(16, dtype=torch.float64)
    board = ((at[:, None] + at) % 2)[None, None]
    wave = (torch.pi / 16 * (at + 0.5) * 3).cos().expand(1, 1, 16, 16)
    assert float(high_frequency(board)) > 0.85
    assert float(high_frequency(wave)) == pytest.approx(0, abs=1e-12)
    assert high_frequency(torch.ones(1, 1, 16, 16)).isnan().all()


def test_the_gradient_of_a_linear_network_is_its_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    weight = model[1].weight.detach()
    x, label = torch.rand(300, 3, 2, 2, generator=stream(3, "test"), dtype=torch.float64), torch.zeros(300).long()
    logits = model(x).detach()
    rival = 1 + logits[:, 1:].argmax(1)
    norms = gradient_norms(model, x, label, margin)
    assert norms.tolist() == pytest.approx((weight[0] - weight[rival]).norm(dim=1).tolist())
    chance = logits.softmax(1) - nn.functional.one_hot(label, 3)
    assert gradient_norms(model, x, label, cross_entropy).tolist() == pytest.approx(
        (chance @ weight).norm(dim=1).tolist()
    )
    assert all(p.grad is None for p in model.parameters())
    assert margin(logits, label).tolist() == pytest.approx((logits[:, 0] - logits[:, 1:].amax(1)).tolist())
