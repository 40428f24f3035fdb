"""Mutual information of one checkpoint: what each estimator costs, and what stacking and factoring save."""

import copy
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from raybd.data import load
from raybd.metrics.information.critics import Critics, CriticTraining, Pairs, fit
from raybd.metrics.information.gaussian_channel import channel_estimates, whitened_channel
from raybd.metrics.information.noisy_features import noiseless_features, noisy_features
from raybd.metrics.information.plug_in_estimator import plug_in_estimates, plug_in_scores, whitened_axes
from raybd.metrics.information.sampled_infonce import (
    TY,
    XT,
    Critic,
    SampledInfoNCE,
    sampled_infonce_bound,
    training_step,
)
from raybd.models import Classifier, build_model
from tests.benchmarks.timing import Row, Side, interleave, rate, require

GROUPS, N, PASSES, FRESH = 6, 64, 32, 4  # as MutualInformation has them by default
STEPS = 60  # of the critics, timed
PAPER: list[tuple[str, SampledInfoNCE, int, int]] = [
    ("I(X;T)", XT, 512, 3072),
    ("I(T;Y)", TY, 10, 512),
]  # ResNet-18, CIFAR-10
SIZES = (5000, 4500, 9500, 4500, 4500, 4500, 4500)  # its seven groups


def mutual_information() -> list[Row]:
    """CPU seconds of a checkpoint of digits for each estimator; steps/CPU-s of critics, which have two sides."""
    torch.manual_seed(0)
    data = load("digits")
    model = build_model("small_cnn", data.train.shape, 10, data.mean, data.std, noise=0.4).eval()
    assert isinstance(model, Classifier)
    images = data.train.x[: GROUPS * N]
    return [*_untrained(model, images), _stacked(model, images), *(row for case in PAPER for row in _factored(*case))]


@torch.no_grad()
def _untrained(model: Classifier, x: Tensor) -> list[Row]:
    features, noiseless = (
        noisy_features(model, x, PASSES + FRESH).unflatten(0, (GROUPS, N)),
        noiseless_features(model, x),
    )
    logits = model.classify(features)

    def channel() -> object:
        return channel_estimates(
            *whitened_channel(features[:, :, PASSES:], logits[:, :, PASSES:], model.head, model.noise)
        )

    def plug() -> object:
        axes = whitened_axes(features[:, :, :PASSES])
        draws, fresh = (features @ axes.T).split([PASSES, FRESH], 2)
        return plug_in_estimates(plug_in_scores(draws, fresh, (noiseless @ axes.T).unflatten(0, (GROUPS, N))))

    sides: dict[str, Side] = {
        f"passes of digits, {GROUPS} groups of {N} images, {PASSES + FRESH} draws": lambda: noisy_features(
            model, x, PASSES + FRESH
        ),
        "a: I(T;Y_pred) by the known channel": torch.no_grad()(channel),
        "b: I(X;T) by plug-in": torch.no_grad()(plug),
    }
    seconds = interleave(sides)
    return [Row(name, statistics.median(took), None, len(took), "CPU-s/checkpoint") for name, took in seconds.items()]


def _stacked(model: Classifier, x: Tensor) -> Row:
    """Critics of all groups in one batched network against one network and one optimiser a group."""
    features = noisy_features(model, x, PASSES).unflatten(0, (GROUPS, N))
    pairs, names = Pairs(features, x.flatten(1).float().div(255).unflatten(0, (GROUPS, N))[:, :, None]), list("abcdef")
    train_config = CriticTraining(steps=STEPS)

    def stacked() -> Tensor:
        return fit(Critics(pairs, names, 0), pairs, train_config)

    def looped() -> Tensor:
        own = [Pairs(pairs.u[g : g + 1], pairs.v[g : g + 1]) for g in range(GROUPS)]
        return torch.cat(
            [fit(Critics(one, [name], 0), one, train_config) for one, name in zip(own, names, strict=True)], 1
        )

    require(bool((stacked() - looped()).abs().max() < 1e-3), "stacked and looped critics")
    return _steps(f"c: {GROUPS} critics stacked, batch {train_config.batch}", stacked, looped, STEPS)


def _factored(name: str, settings: SampledInfoNCE, u_size: int, v_size: int) -> list[Row]:
    """A step of the authors' critic with its first layer factored against B * K concatenated vectors."""
    torch.manual_seed(0)
    u, v, critic = torch.randn(settings.batch, u_size), torch.rand(settings.batch, v_size), Critic(u_size, v_size)
    negatives = torch.randint(settings.batch, (settings.batch, settings.negatives))
    other = copy.deepcopy(critic)
    optimizers = [
        torch.optim.AdamW(c.parameters(), lr=settings.learning_rate, weight_decay=1e-4) for c in (critic, other)
    ]

    def factored() -> object:
        return training_step(critic, optimizers[0], u, v, negatives)

    def plain() -> object:
        estimate = sampled_infonce_bound(_naive(other), u, v, negatives)
        optimizers[1].zero_grad(set_to_none=True)
        (-estimate).backward()
        nn.utils.clip_grad_norm_(other.parameters(), 5.0)
        optimizers[1].step()
        return estimate

    with torch.no_grad():
        values = [sampled_infonce_bound(side, u, v, negatives) for side in (critic, _naive(other))]
    require(bool((values[0] - values[1]).abs() < 1e-4), f"factored and plain critics of {name}")
    row = _steps(f"d: paper mode, {name}, one critic", factored, plain, 1, repetitions=3)
    steps = sum(settings.batches(n) * settings.epochs for n in SIZES)
    hours = Row(
        f"d: {name}, {steps:,} steps of 7 groups, without the network",
        steps / row.ours / 3600,
        None,
        3,
        "CPU-h/checkpoint",
    )
    return [row, hours]


def _naive(critic: Critic) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`critic` on concatenated vectors."""

    def scores(u: Tensor, v: Tensor, index: Tensor) -> Tensor:
        both = torch.cat([u[:, None].expand(-1, index.shape[1], -1), v[index]], 2)
        result: Tensor = critic.last(critic.second(critic.first(both).relu()).relu()).squeeze(-1)
        return result

    return scores


def _steps(name: str, ours: Side, plain: Side, steps: int, repetitions: int = 5) -> Row:
    seconds = interleave({"ours": ours, "plain": plain}, repetitions)
    return replace(rate(name, seconds["ours"], seconds["plain"], (steps, steps)), unit="steps/CPU-s")
