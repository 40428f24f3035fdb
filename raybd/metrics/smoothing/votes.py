"""Votes: the classes that a network gives noisy copies x + sigma z of a point, counted on the device."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raybd.metrics.smoothing.network import Logits, inference_network
from raybd.metrics.smoothing.noise import block_size, noise
from raybd.models.batch_size import batch_size, batched

MAX_PIXELS_CPU = 2**17  # pixels of a batch on a CPU: a small network's activations still fit its cache
MAX_BATCH_CPU = 512  # images of a batch on a CPU
MAX_BATCH_GPU = 8192  # images of a batch elsewhere
CHECKED = 8  # images on which a folded network is compared with the plain one


@dataclass(frozen=True)
class VoteCounts:
    """Votes on N points, each in V variants at S sigmas; on the CPU."""

    votes: Tensor  # (V, S, N, K) int32: n_c
    first: Tensor  # the same after the first look: as many draws for every point
    soft: Tensor  # (V, S, N, K) float32: the mean softmax
    noiseless: Tensor  # (V, N) int64: the class without noise


@dataclass(frozen=True)
class _VoteState:
    """Votes so far: a row for every (point, variant, sigma), point by point, so that neighbours share noise."""

    network: Logits
    images: Tensor  # (V, N, C, H, W)
    points: list[int]
    sigmas: Tensor
    seed: int
    batch: int
    votes: Tensor  # (rows, K) int64
    soft: Tensor  # (rows, K) float32, sums
    heartbeat: Callable[[], None]

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Variant, sigma and point (each an index) of the rows `index`."""
        variants, sigmas = len(self.images), len(self.sigmas)
        return index // sigmas % variants, index % sigmas, index // (variants * sigmas)


def count_votes(
    model: nn.Module,
    images: Tensor,
    points: Sequence[int],
    sigmas: Sequence[float],
    looks: Sequence[int],
    seed: int,
    batch: int | None = None,
    heartbeat: Callable[[], None] = lambda: None,
) -> VoteCounts:
    """Count the classes that `model` gives x + sigma z, for every variant x of every point and every sigma.

    Args:
        model: maps pixels in [0, 1] to logits (lowest class wins a tie); normalises inside; in evaluation mode.
        images: (V, N, C, H, W) float in [0, 1]: variant v of point i.
        points: N ids; a point's noise hangs on `seed` and its id alone.
        sigmas: noise scales, in pixels of [0, 1]; nothing is clipped.
        looks: numbers of draws, rising. After each but the last, rows that are unanimous so far are left alone. That
            lowers means of the votes (by up to 0.04 nats for looks at 32 and 64), but not those of the first look's.
        seed: of the noise.
        batch: images at a time; never changes a vote.
        heartbeat: called after every batch.

    Raises:
        InputError: the network is in training mode.
    """
    flat = images.flatten(0, 1)
    network = inference_network(model, flat[:CHECKED])
    with torch.inference_mode():
        at_once = batch or batch_size(model, images, most_images(images))
        noiseless = batched(network, flat, size=at_once)
        rows = torch.arange(len(flat) * len(sigmas))  # on the CPU: the device is waited for once a look
        state = _VoteState(
            network=network,
            images=images,
            points=list(points),
            sigmas=torch.tensor(sigmas, dtype=images.dtype, device=images.device),
            seed=seed,
            batch=at_once,
            votes=torch.zeros(len(rows), noiseless.shape[1], dtype=torch.int64, device=images.device),
            soft=torch.zeros(len(rows), noiseless.shape[1], device=images.device),
            heartbeat=heartbeat,
        )
        _add_draws(state, rows, 0, looks[0])
        first = state.votes.clone()
        for done, last in itertools.pairwise(looks):
            _add_draws(state, rows[state.votes.amax(1).cpu() < done], done, last)
    return _vote_counts(state, first, noiseless.argmax(1))


def most_images(images: Tensor) -> int:
    """Images of a forward pass on the device of `images` (..., H, W), if the memory has room for them."""
    height, width = images.shape[-2:]
    if images.device.type != "cpu":
        return MAX_BATCH_GPU
    return max(32, min(MAX_BATCH_CPU, MAX_PIXELS_CPU // (height * width)))


def _add_draws(state: _VoteState, active: Tensor, first: int, last: int) -> None:
    """Add draws `first` to `last` of the rows `active`."""
    size = block_size(state.images.shape[2:])
    for block in range(first // size, -(-last // size)):
        inside = slice(max(first - block * size, 0), last - block * size)
        for part in active.split(max(1, state.batch // size)) if len(active) else ():
            _vote(state, part, block, inside)
            state.heartbeat()


def _vote(state: _VoteState, part: Tensor, block: int, inside: slice) -> None:
    shape, device = state.images.shape[2:], state.images.device
    variant, sigma, point = state.rows(part)
    distinct, which = point.unique(return_inverse=True)
    z = noise(state.seed, [state.points[i] for i in distinct.tolist()], block, shape, device)[:, inside]
    part, variant, sigma, point, which = (index.to(device) for index in (part, variant, sigma, point, which))
    scale = state.sigmas[sigma].view(-1, 1, 1, 1, 1)
    x = torch.addcmul(state.images[variant, point][:, None], scale, z.to(state.images.dtype)[which])
    logits = batched(state.network, x.flatten(0, 1), size=state.batch)
    classes, draws = logits.shape[1], x.shape[1]
    label = logits.argmax(1).view(-1, draws) + part[:, None] * classes
    state.votes.view(-1).index_add_(0, label.flatten(), torch.ones_like(label).flatten())
    state.soft.index_add_(0, part, logits.float().softmax(1).view(-1, draws, classes).sum(1))


def _vote_counts(state: _VoteState, first: Tensor, noiseless: Tensor) -> VoteCounts:
    variants, points = state.images.shape[:2]
    shape = (points, variants, len(state.sigmas), -1)
    soft = state.soft / state.votes.sum(1, keepdim=True)
    counted = (state.votes.to(torch.int32), first.to(torch.int32), soft)
    votes, first, soft = (part.view(shape).permute(1, 2, 0, 3).contiguous().cpu() for part in counted)
    return VoteCounts(votes, first, soft, noiseless.view(variants, points).cpu())
