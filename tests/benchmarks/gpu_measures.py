"""What is measured of networks on a GPU: the E-step, votes under noise, information; each against float64 on the CPU.

Packages are imported where they are used: a bare machine may lack SciPy, and shall time the rest.
"""

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raybd.models import Classifier
from tests.benchmarks.timing import Row, require

if TYPE_CHECKING:
    from tests.benchmarks.gpu import Bench

SHARPNESS, CHUNK = 25.0, 2**14
SIGMA, FEW = 0.25, 2  # points of the check
GROUPS, PASSES, FRESH, NOISE = 6, 32, 4, 0.4  # as MutualInformation has them by default


def e_step(at: "Bench") -> list[Row]:
    """Seconds of VIBE's E-step with scores on the device: the smaller in float32, the largest in float16."""
    from raybd.defences.vibe.transport import solve

    rows = []
    for (n, k), dtype in zip(at.sizes.transports, (torch.float32, torch.float16), strict=True):
        scores, prior = _scores(at, n, k).to(dtype), torch.ones(k) / k
        plan = solve(scores, prior, SHARPNESS)
        error = float((_columns(scores, plan.duals) - prior).abs().sum())
        require(error < 1e-5, f"E-step {n} x {k}: columns {error:.1e} from the prior in float64")
        seconds = at.seconds(lambda scores=scores, prior=prior: solve(scores, prior, SHARPNESS), 3)
        name = f"E-step {n:,} x {k:,}, {str(dtype).removeprefix('torch.')}, {plan.passes} passes, error {error:.0e}"
        rows.append(Row(name, sorted(seconds)[1], None, 3, "s"))
    return rows


def _scores(at: "Bench", n: int, k: int) -> Tensor:
    rng = torch.Generator(at.device).manual_seed(n)
    parts = [torch.randn(min(CHUNK, n - i), k, generator=rng, device=at.device) for i in range(0, n, CHUNK)]
    return torch.cat([(2 * part).log_softmax(1).half() for part in parts])


def _columns(scores: Tensor, duals: Tensor) -> Tensor:
    """Column sums of the plan (K,), by its definition."""
    parts = [(SHARPNESS * part.cpu().double() + duals).softmax(1).sum(0) for part in scores.split(CHUNK)]
    return torch.stack(parts).sum(0) / len(scores)


def smoothing(at: "Bench") -> list[Row]:
    """Votes, noise and all, against bare inference of the same network on a batch that lies ready."""
    from raybd.metrics.smoothing.network import inference_network
    from raybd.metrics.smoothing.votes import count_votes, most_images
    from raybd.models.batch_size import batch_size

    model, points, draws = at.network().eval(), at.sizes.points, at.sizes.draws
    images = torch.rand(1, points, *at.shape, generator=torch.Generator().manual_seed(1)).to(at.device)
    counted = count_votes(model, images[:, :FEW], range(FEW), [SIGMA], [draws], 0).votes[0, 0]
    apart = float((counted - _votes(at, model, images[0, :FEW])).abs().sum()) / 2 / (FEW * draws)
    require(apart < 0.05, f"{apart:.1%} of the votes are others in float64")
    network = inference_network(model, images[0, :FEW])
    batch = min(batch_size(model, images, most_images(images)), points * draws)
    ready = images[0][torch.arange(batch, device=at.device) % points]

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(-(-points * draws // batch)):
                network(ready)

    ours = at.seconds(lambda: count_votes(model, images, range(points), [SIGMA], [draws], 0))
    bound = at.seconds(bare)
    rates = [points * draws / s for s in ours], [-(-points * draws // batch) * batch / s for s in bound]
    ratios = [a / b for a, b in zip(*rates, strict=True)]
    name = f"smoothing, {points} points x {draws} draws, plain: inference alone"
    middle = [sorted(side)[1] for side in rates]
    return [Row(name, *middle, len(ours), "forwards/s", (min(ratios), max(ratios)))]


def _votes(at: "Bench", model: Classifier, images: Tensor) -> Tensor:
    """Votes (N, K) of float64 on the CPU for the same noise."""
    from raybd.metrics.smoothing.noise import block_size, noise

    precise, votes = deepcopy(model).cpu().double(), []
    blocks = range(-(-at.sizes.draws // block_size(at.shape)))
    for point, image in enumerate(images.cpu().double()):
        z = torch.cat([noise(0, [point], block, at.shape, at.device)[0] for block in blocks])[: at.sizes.draws]
        with torch.no_grad():
            logits = precise(image + SIGMA * z.cpu().double())
        votes.append(logits.argmax(1).bincount(minlength=logits.shape[1]))
    return torch.stack(votes).int()


@torch.no_grad()
def information(at: "Bench") -> list[Row]:
    """Seconds of a probe of I(X;T) and I(T;Y_pred): noisy passes of six groups of images, and both estimators."""
    from raybd.metrics.information.noisy_features import noiseless_features, noisy_features

    model = at.network(NOISE).eval()
    x = at.images(GROUPS * at.sizes.group).x
    precise = deepcopy(model).cpu().double()

    def passes() -> tuple[Tensor, Tensor]:
        return noisy_features(model, x, PASSES + FRESH), noiseless_features(model, x)

    drawn, noiseless = passes()
    exact = _silent(precise, x[:FEW])
    apart = float((noiseless[:FEW].cpu() - exact).norm() / exact.norm())
    require(apart < 0.01, f"features {apart:.1e} from float64's")
    here, there = (
        _estimates(model, drawn, noiseless),
        _estimates(precise, drawn.cpu().double(), noiseless.cpu().double()),
    )
    worst = max(abs(a - b) for a, b in zip(here, there, strict=True))
    require(worst < 1e-2, f"estimates {worst:.1e} nats from float64's")
    seconds = at.seconds(lambda: _estimates(model, *passes()))
    name = f"MI probe, {GROUPS} groups of {at.sizes.group} images, {PASSES + FRESH} draws of each"
    return [Row(name, sorted(seconds)[1], None, len(seconds), "s")]


def _silent(precise: Classifier, x: Tensor) -> Tensor:
    """Features (n, D) of the bytes `x` without noise."""
    from raybd.models.noise import without_noise

    with without_noise():
        return precise.features(precise.normalise(x.cpu().double() / 255))


def _estimates(model: Classifier, drawn: Tensor, noiseless: Tensor) -> list[float]:
    """Both estimates of every group, in nats, from `drawn` (M, draws, D) and `noiseless` (M, D)."""
    from raybd.metrics.information.gaussian_channel import channel_estimates, whitened_channel
    from raybd.metrics.information.plug_in_estimator import plug_in_estimates, plug_in_scores, whitened_axes

    features = drawn.unflatten(0, (GROUPS, -1))
    axes = whitened_axes(features[:, :, :PASSES])
    draws, fresh = (features @ axes.T).split([PASSES, FRESH], 2)
    scores = plug_in_scores(draws, fresh, (noiseless @ axes.T).unflatten(0, (GROUPS, -1)))
    received = features[:, :, PASSES:]
    logits = received @ model.head.weight.T + model.head.bias
    channel = channel_estimates(*whitened_channel(received, logits, model.head, model.noise))
    return [estimate.value for estimate in (*plug_in_estimates(scores), *channel)]
