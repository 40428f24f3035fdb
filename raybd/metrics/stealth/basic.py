"""The metric stealth: how visible the trigger is. One pass over a few hundred images, after the last epoch."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from raybd.metrics.base import Metric, measured_only
from raybd.metrics.stealth.distances import changed_pixels, high_frequency, l1, l2, linf, mse, psnr
from raybd.metrics.stealth.gradients import cross_entropy, gradient_norms, margin
from raybd.metrics.stealth.image_pairs import ImagePairs, poison_mask, sample_pairs
from raybd.metrics.stealth.ssim import SIDE, ssim_reflect11, ssim_valid11
from raybd.models.batch_size import by_image
from raybd.seeds import forked_rng
from raybd.types import MetricContext

DISTANCES = {"l0": changed_pixels, "l1": l1, "l2": l2, "linf": linf, "mse": mse, "psnr": psnr}
SSIM_COPIES, DCT_COPIES = 24, 6  # of an image in double precision, that live at once
MAX_GRADIENT_IMAGES = 200  # images
LOW_QUANTILE = 0.05  # quantile of SSIM that stands for the images on which a trigger shows most


@dataclass(frozen=True, kw_only=True)
class Stealth(Metric):
    """Distances, PSNR and SSIM of the trigger, its frequencies, its confidence, and the network's input gradients."""

    every_probe: ClassVar[bool] = False

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """Means over at most 500 test images that the attack success rate counts; pixels in [0, 1]."""
        images = sample_pairs(context)
        if not len(images.true):
            return {}
        found = {
            **mean_distances(images),
            **ssim_metrics(images),
            **frequencies(images),
            **confidences(images),
            **poison_counts(context),
        }
        with forked_rng(context.seed, "stealth", device=images.clean.device):
            found |= input_gradients(context.model, images)
        return {f"stealth/{name}": value for name, value in measured_only(found).items()}


def poison_counts(context: MetricContext) -> dict[str, float]:
    """How many training images are poisoned, their share, and, where there are any, whether all keep their labels."""
    mask, changed = poison_mask(context), context.poisoned.images.y != context.poisoned.true
    count = int(mask.sum())
    found = {"poisoned": float(count), "poison_rate": count / len(mask)}
    return found | ({"clean_label": float(not changed[mask].any())} if count else {})


def mean_distances(images: ImagePairs) -> dict[str, float]:
    """Means of l0 (positions), l1, l2, linf, MSE and PSNR, and the share of images that the trigger leaves alone."""
    found = {name: _mean(distance(images.clean, images.triggered)) for name, distance in DISTANCES.items()}
    return found | {"unchanged": _mean((images.clean == images.triggered).flatten(1).all(1))}


def ssim_metrics(images: ImagePairs) -> dict[str, float]:
    """Mean and 5 % quantile of SSIM in both paddings; only what the images are large enough for."""
    clean, triggered = images.clean, images.triggered
    shortest = min(clean.shape[2:])
    found: dict[str, float] = {}
    for name, ssim, least in (("valid11", ssim_valid11, SIDE), ("reflect11", ssim_reflect11, SIDE // 2 + 1)):
        if shortest >= least:
            values = by_image(lambda a, b, of=ssim: of(a.double(), b.double()), clean, triggered, copies=SSIM_COPIES)
            found |= {f"ssim_{name}": _mean(values), f"ssim_{name}_low": float(values.quantile(LOW_QUANTILE))}
    return found


def frequencies(images: ImagePairs) -> dict[str, float]:
    """Mean share of energy at high frequencies of clean images, of triggered ones, and of the change alone.

    Over the images that have such a share: see `high_frequency`.
    """
    change = images.triggered - images.clean
    parts = {"clean": images.clean, "triggered": images.triggered, "trigger": change}
    shares = {name: by_image(high_frequency, x, copies=DCT_COPIES) for name, x in parts.items()}
    return {f"high_frequency/{name}": float(share.nanmean()) for name, share in shares.items()}


def confidences(images: ImagePairs) -> dict[str, float]:
    """Mean chance and margin (logits) of the wanted class with the trigger, and of the true class without it."""
    found: dict[str, float] = {}
    for name, logits, label in (
        ("triggered", images.triggered_logits, images.wanted),
        ("clean", images.clean_logits, images.true),
    ):
        chance = logits.softmax(1).gather(1, label[:, None])
        found |= {f"confidence/{name}": _mean(chance), f"margin/{name}": _mean(margin(logits, label))}
    return found


def input_gradients(model: nn.Module, images: ImagePairs) -> dict[str, float]:
    """Median L2 norm of the input gradient of the loss and of the margin, towards the same labels."""
    some = slice(0, MAX_GRADIENT_IMAGES)
    found: dict[str, float] = {}
    for name, x, label in (
        ("triggered", images.triggered, images.wanted),
        ("clean", images.clean, images.true),
    ):
        for kind, objective in (("loss", cross_entropy), ("margin", margin)):
            norms = gradient_norms(model, x[some], label[some], objective)
            found[f"gradient/{kind}/{name}"] = float(norms.median())
    return found


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
