"""VIBE's E-step against the released algorithm and POT, a streamed one that fits no memory, and the F head."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import ot
import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.defences.vibe.heads import Heads
from raybd.defences.vibe.transport import solve
from raybd.seeds import stream
from tests.benchmarks.timing import Row, interleave, rate, require

SHARPNESS, RELEASED_SWEEPS, MEASURED_SWEEPS = 25.0, 10_001, 100
SIZES = ((50_000, 10), (5_000, 100), (50_000, 1000))
SHARP = ((50_000, 10), (5_000, 100), (999, 43))  # the last at SKEWED_SHARPNESS with a prior from Dirichlet(1/2)
SKEWED_SHARPNESS = 100.0
POT_LIMIT = 60.0  # seconds
STREAMED, CLASSES, CHUNK = 1_281_167, 1000, 16_384
BATCH, WIDTH = 256, 512
GIB = 2**30


def vibe() -> list[Row]:
    """Images/CPU-s of every side; what a streamed E-step takes."""
    rows = [row for n, k in SIZES for row in _e_step(n, k)]
    return [*rows, *_sharp(), *_streamed(), *_head()]


def _scores(n: int, k: int, seed: int = 0) -> Tensor:
    rng = stream(seed, "scores", n, k)
    return (2 * torch.randn(n, k, generator=rng)).log_softmax(1) + torch.randn(n, k, generator=rng).log_softmax(1)


def _sharp_scores(n: int, k: int, kappa: float = 10.0, size: int = 64) -> Tensor:
    """ln p(l|x) + ln p(y|l) of von Mises-Fisher heads on noisy directions, a tenth of the labels wrong."""
    rng = stream(0, "sharp scores", n, k)
    mu, true = F.normalize(torch.randn(k, size, generator=rng), dim=1), torch.randint(k, (n,), generator=rng)
    v = F.normalize(mu[true] + torch.randn(n, size, generator=rng) / size**0.5, dim=1)
    given = torch.where(torch.rand(n, generator=rng) < 0.9, true, torch.randint(k, (n,), generator=rng))
    return (kappa * v @ mu.T).log_softmax(1) + (kappa * mu @ mu.T).log_softmax(1).T[given]


def _prior(k: int) -> Tensor:
    return (0.02 * torch.randn(k, generator=stream(0, "prior"))).softmax(0)


def _e_step(n: int, k: int) -> list[Row]:
    scores, prior = _scores(n, k), _prior(k)
    plan = solve(scores, prior, SHARPNESS)
    spent = interleave({"ours": lambda: solve(scores, prior, SHARPNESS)}, 3)["ours"]
    sweeps = 10 if k == CLASSES else MEASURED_SWEEPS
    start = time.process_time()
    released(scores, prior, sweeps)
    whole = (time.process_time() - start) * RELEASED_SWEEPS / sweeps
    name = f"E-step {n:,} x {k}, error {plan.error:.0e} in {plan.passes} passes"
    rows = [_row(f"{name}, plain: {RELEASED_SWEEPS:,} sweeps, from {sweeps}", n, spent, whole)]
    return rows + _against_pot(scores, prior, spent)


def _sharp() -> list[Row]:
    """Scores of which most rows lie with one class: the passes they take, and the released sweeps."""
    rows = []
    for n, k in SHARP:
        skewed = (n, k) == SHARP[-1]
        sharpness = SKEWED_SHARPNESS if skewed else SHARPNESS
        skew = torch.from_numpy(np.random.default_rng(0).dirichlet(np.full(k, 0.5)))
        scores, prior = _sharp_scores(n, k), skew if skewed else _prior(k)
        plan = solve(scores, prior, sharpness)
        spent = interleave({"ours": lambda s=scores, p=prior, b=sharpness: solve(s, p, b)}, 3)["ours"]
        start = time.process_time()
        released(scores * (sharpness / SHARPNESS), prior.float(), MEASURED_SWEEPS)
        whole = (time.process_time() - start) * RELEASED_SWEEPS / MEASURED_SWEEPS
        name = f"E-step, sharp, {n:,} x {k}, lambda {sharpness:g}, error {plan.error:.0e} in {plan.passes} passes"
        rows.append(_row(f"{name}, plain: {RELEASED_SWEEPS:,} sweeps, from {MEASURED_SWEEPS}", n, spent, whole))
    return rows


def _against_pot(scores: Tensor, prior: Tensor, spent: list[float]) -> list[Row]:
    """POT's float32 log-domain Sinkhorn to our error, or to what it reaches in about a minute."""
    n, k = scores.shape
    rows, columns, costs = np.full(n, 1 / n, np.float32), prior.numpy(), -scores.numpy()

    def sweeps(count: int) -> tuple[float, float]:
        start = time.process_time()
        plan = ot.bregman.sinkhorn_log(rows, columns, costs, 1 / SHARPNESS, numItermax=count, stopThr=0, warn=False)
        return time.process_time() - start, float(np.abs(plan.sum(0, dtype=np.float64) - prior.double().numpy()).sum())

    each = sweeps(5)[0] / 5
    count, seconds, error = 10, 0.0, 1.0
    while error > 1e-6 and seconds + 2 * count * each < POT_LIMIT:
        seconds, error = sweeps(count)
        count *= 2
    said = "" if error <= 1e-6 else " (more would take over a minute)"
    if not seconds:
        seconds, error = sweeps(10)
        said = " (10 sweeps alone: a minute would not do)"
    return [_row(f"E-step {n:,} x {k}, plain: POT sinkhorn_log to {error:.0e}{said}", n, spent, seconds)]


def released(scores: Tensor, prior: Tensor, sweeps: int) -> Tensor:
    """Log-domain Sinkhorn as arXiv:2503.08829's code does it: a fixed number of sweeps in float32, rows last."""
    kernel, rows, columns = scores * SHARPNESS, -torch.full((len(scores), 1), float(len(scores))).log(), prior.log()
    v = rows.clone()
    for _ in range(sweeps):
        u = columns - (kernel + v).logsumexp(0)
        v = rows - (kernel + u).logsumexp(1, keepdim=True)
    return kernel + u + v


def _streamed() -> list[Row]:
    """One E-step of ImageNet's size in a process of its own, its chunks made anew or read from a file each pass."""
    out = subprocess.run([sys.executable, "-m", "tests.benchmarks.vibe"], capture_output=True, text=True, check=True)
    seconds, peak, error, passes = map(float, out.stdout.split())
    name = f"streamed E-step {STREAMED:,} x {CLASSES} float16, error {error:.0e} in {passes:.0f} passes"
    return [Row(name, seconds, None, 1, "CPU-s"), Row("... its peak memory", peak, None, 1, "GiB")]


def streamed() -> None:
    """What the process of `_streamed` does: a file of float16, read in chunks."""
    torch.set_num_threads(1)
    with tempfile.TemporaryFile() as file:
        for start in range(0, STREAMED, CHUNK):
            stop = min(start + CHUNK, STREAMED)
            _scores(stop - start, CLASSES, seed=start).half().numpy().tofile(file)
        file.flush()

        def chunks() -> Iterator[Tensor]:
            for start in range(0, STREAMED, CHUNK):
                count = min(CHUNK, STREAMED - start)
                file.seek(start * CLASSES * 2)
                yield torch.from_numpy(np.fromfile(file, np.float16, count * CLASSES).reshape(count, CLASSES))

        start_time = time.process_time()
        plan = solve(chunks, _prior(CLASSES), SHARPNESS)
        spent = time.process_time() - start_time
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    print(spent, peak, plan.error, plan.passes)


def _head() -> list[Row]:
    """Forward and backward of F at 1,000 classes: the matrix form against (B, K, D) and (B, K, K)."""
    heads = Heads(CLASSES, WIDTH, "F", 20.0, 20.0, 0.02)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    v, y = torch.randn(BATCH, WIDTH), torch.arange(BATCH)
    few = slice(0, 32)  # of the naive side, which would need 2.1 GB and more for all
    difference = (heads.corrupted_log(v[few], y[few]) - _naive(heads, v[few], y[few])).detach().abs().max()
    require(float(difference) < 1e-2, f"F heads, by {float(difference)}")
    sides = {
        "ours": lambda: heads.corrupted_log(v, y).sum().backward(),
        "naive": lambda: _naive(heads, v[few], y[few]).sum().backward(),
    }
    spent = interleave(sides, 3)
    naive = sorted(spent["naive"])[1] * BATCH / 32
    peaks = [_tensors(lambda: heads.corrupted_log(v, y)), _tensors(lambda: _naive(heads, v[few], y[few])) * BATCH / 32]
    return [
        _row(f"F head {BATCH} x {CLASSES}, {WIDTH} features, plain: naive, from 32 rows", BATCH, spent["ours"], naive),
        Row(
            "... tensors kept for its gradient",
            peaks[0] / 2**20,
            peaks[1] / 2**20,
            1,
            "MiB",
            (peaks[0] / peaks[1],) * 2,
        ),
    ]


def _naive(heads: Heads, v: Tensor, y: Tensor) -> Tensor:
    h = F.normalize(heads.clean, dim=1)[None] + v[:, None]
    logits = heads.nu * torch.einsum("bjd,id->bji", h, F.normalize(heads.corrupted, dim=1))
    return logits.log_softmax(2)[torch.arange(len(y)), :, y]


def _tensors(side: Callable[[], Tensor]) -> float:
    """Bytes that autograd keeps."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = side()
    return float(sum(kept.values()) + 0 * held.numel())


def _row(name: str, images: int, spent: list[float], plain: float) -> Row:
    return rate(name, spent, [plain] * len(spent), (images, images))


if __name__ == "__main__":
    streamed()
