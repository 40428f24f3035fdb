"""How long a sweep will take, roughly: one small step of each kind of trial, measured here, times the work."""

import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from raybd.models import build_model
from raybd.trials.config import TrialConfig
from raybd.trials.convex import pose_problem
from raybd.types import Data

STEP = 64  # images in the step that is measured
SOLVES = 10  # of a convex learner for its curve, about: some betas, two slopes
CONVEX_OVERHEAD = 0.25  # seconds of its trial outside: pictures, records
OVERHEAD = 0.4  # seconds of a trial outside training: poisoning, measuring, pictures, records


def seconds(configs: Sequence[TrialConfig], data: dict[str, Data]) -> float:
    """CPU seconds of one thread for all `configs` together, from a training step of each network on this machine."""
    costs: dict[tuple[object, ...], float] = {}
    total = 0.0
    for config in configs:
        one = data[config.data]
        if config.model.convex:
            name = (config.data, config.model.name, config.recipe)
            if name not in costs:
                costs[name] = _solve_seconds(config, one)
            total += costs[name] * (1 + SOLVES * (config.poison_rate > 0)) + CONVEX_OVERHEAD
            continue
        kind = (config.data, config.model, config.train.batch_size)
        if kind not in costs:
            costs[kind] = _image_seconds(config, one)
        work = config.train.epochs * len(one.train) + 2 * len(one.test)
        total += costs[kind] * work + OVERHEAD
    return total


def _solve_seconds(config: TrialConfig, data: Data) -> float:
    """Seconds that a convex learner takes to be solved once on its poisoned pair."""
    task = pose_problem(config, data).task
    start = time.perf_counter()
    config.model.learner().path(task, [1.0])
    return time.perf_counter() - start


def _image_seconds(config: TrialConfig, data: Data) -> float:
    """Seconds that a training step takes for each of its images."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model = build_model(
        config.model.name,
        data.train.shape,
        len(data.classes),
        data.mean,
        data.std,
        width=config.model.width,
        depth=config.model.depth,
        noise=config.model.noise,
    )
    size = min(STEP, config.train.batch_size, len(data.train))
    x, y = data.train.x[:size].float() / 255, data.train.y[:size]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        F.cross_entropy(model(x), y).backward()
        times.append(time.perf_counter() - start)
    torch.set_num_threads(before)
    return min(times) / size
