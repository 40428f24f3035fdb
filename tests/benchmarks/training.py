"""The training loop against the plain one: a DataLoader over PIL images, float32, `loss.item()` in every step.

Both sides predict two test sets besides, the clean and the triggered one: the plain side after every epoch, as
toolkits do, and ours at its probes.
"""

import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from raybd.models import Classifier, build_model
from raybd.seeds import stream
from raybd.training import TrainConfig, augment, fit, predict, prepare, probe_schedule
from raybd.types import Images
from tests.benchmarks.timing import PLAIN, Row, apart, interleave, rate, require

CLASSES, MEAN, STD, SEED = 10, 0.5, 0.29, 0
FEW, SMALL = 4, 32  # steps in the check that both sides learn the same, and the images of one
CLOSE = 1e-4
VARIANTS = {  # of TrainConfig's defaults, which on a CPU are channels_last and fp32
    "": {},
    ", bf16": {"precision": "bf16"},
    ", contiguous": {"memory_format": "contiguous"},
}


@dataclass(frozen=True)
class Case:
    """A network, made images of one size, and how it is trained on them."""

    name: str
    model: str
    shape: tuple[int, int, int]
    images: int
    tests: int  # of each of two sets; to `images` as in the data set of that shape
    train_config: TrainConfig


CASES = [
    Case("small_cnn 8x8x1", "small_cnn", (1, 8, 8), 1297, 500, TrainConfig(epochs=20, batch_size=64)),
    Case("small_cnn 28x28x1", "small_cnn", (1, 28, 28), 640, 107, TrainConfig(epochs=20, batch_size=128)),
    Case(
        "resnet18 32x32x3", "resnet18", (3, 32, 32), 128, 26, TrainConfig(epochs=2, batch_size=128, crop=4, flip=True)
    ),
]


def training() -> list[Row]:
    """Images/CPU-s of whole trainings, ours in every format and precision, and of the feed alone with crop and flip."""
    return [row for case in CASES for row in (*_rows(case), *_apart(case), _predicting(case))] + [_feed(CASES[-1])]


def _apart(case: Case) -> list[Row]:
    """Both sides as people run them: each time a new process, ours with the environment of a sweep's worker."""
    seconds = apart("tests.benchmarks.training", {side: (case.name, side) for side in ("", ", bf16", PLAIN)})
    seen = 2 * (case.images * case.train_config.epochs,)
    return [rate(f"train {case.name}{s}, a process each", seconds[s], seconds[PLAIN], seen) for s in ("", ", bf16")]


def alone(name: str, side: str) -> float:
    """CPU seconds of one side of the case `name`, after one epoch that does not count; see `_apart`."""
    torch.set_num_threads(1)
    [case] = [case for case in CASES if case.name == name]
    images, tests, network = _made(case), _tests(case), _network(case)
    work = partial(_plain if side == PLAIN else _ours, network, images)
    train_config = replace(case.train_config, **VARIANTS.get(side, {}))
    work(replace(train_config, epochs=1), tests)
    start = time.process_time()
    work(train_config, tests)
    return time.process_time() - start


def _rows(case: Case) -> list[Row]:
    images, tests, network = _made(case), _tests(case), _network(case)
    _check(case, images, network)
    sides = {
        variant: partial(_ours, network, images, replace(case.train_config, **changes), tests)
        for variant, changes in VARIANTS.items()
    }
    seconds = interleave(sides | {"plain": partial(_plain, network, images, case.train_config, tests)})
    seen = 2 * (len(images) * case.train_config.epochs,)
    return [rate(f"train {case.name}{variant}", seconds[variant], seconds["plain"], seen) for variant in VARIANTS]


def _predicting(case: Case) -> Row:
    """Images/CPU-s of evaluation alone, which gives the same logits on both sides."""
    images, model = _made(replace(case, images=4 * case.tests + 100)), _network(case).eval()
    model.to(memory_format=torch.channels_last)
    ours, plain = (
        partial(predict, model, images.x, case.train_config),
        partial(_predicted, model, images, case.train_config),
    )
    require(torch.allclose(ours(), plain(), atol=CLOSE), f"logits of {case.name}")
    seconds = interleave({"ours": ours, "plain": plain})
    return rate(f"predict {case.name}", seconds["ours"], seconds["plain"], 2 * (len(images),))


def _feed(case: Case) -> Row:
    images, train_config = _made(replace(case, images=2000)), case.train_config
    order = _order(images, 1)
    bare = torch.cat([x for x, _ in _loader(images, replace(train_config, crop=0, flip=False), order)])
    require(
        torch.allclose(_normalised(prepare(images.x[order], train_config)), bare, atol=1e-6), "the feed without crop"
    )

    def ours() -> None:
        rng = stream(SEED, "augmentation")
        for index in order.split(train_config.batch_size):
            _normalised(prepare(augment(images.x[index], train_config.crop, train_config.flip, rng), train_config))

    def plain() -> None:
        for _ in _loader(images, train_config, order):
            pass

    seconds = interleave({"ours": ours, "plain": plain})
    return rate("feed 32x32x3 crop flip", seconds["ours"], seconds["plain"], 2 * (len(images),))


def _ours(network: Classifier, images: Images, train_config: TrainConfig, tests: Sequence[Images] = ()) -> Classifier:
    model, probes = deepcopy(network), probe_schedule(train_config.epochs)
    for epoch in fit(model, images, train_config, SEED):
        for test in tests if epoch.number in probes else ():
            predict(model, test.x, train_config)
    return model


def _plain(network: Classifier, images: Images, train_config: TrainConfig, tests: Sequence[Images] = ()) -> Classifier:
    model = deepcopy(network)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=train_config.learning_rate,
        momentum=train_config.momentum,
        weight_decay=train_config.weight_decay,
    )
    steps = train_config.epochs * -(-len(images) // train_config.batch_size)
    schedule = OneCycleLR(optimizer, train_config.learning_rate, total_steps=steps, cycle_momentum=False)
    losses = []
    for epoch in range(1, train_config.epochs + 1):
        model.train()
        for x, y in _loader(images, train_config, _order(images, epoch)):
            loss = F.cross_entropy(model.head(model.features(x)), y)  # the transforms have normalised x already
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        for test in tests:
            _predicted(model, test, train_config)
    return model


@torch.no_grad()
def _predicted(model: Classifier, images: Images, train_config: TrainConfig) -> Tensor:
    model.eval()
    loader = _loader(images, replace(train_config, crop=0, flip=False), torch.arange(len(images)))
    return torch.cat([model.head(model.features(x)) for x, _ in loader])


class PilImages(Dataset[tuple[Tensor, int]]):
    """An image at a time, as torchvision's MNIST and CIFAR-10 hand them out."""

    def __init__(self, images: Images, transform: transforms.Compose) -> None:
        x = images.x.permute(0, 2, 3, 1).numpy()
        self.x, self.y = np.ascontiguousarray(x.squeeze(3) if x.shape[3] == 1 else x), images.y.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.x[index])), self.y[index]


def _loader(images: Images, train_config: TrainConfig, order: Tensor) -> DataLoader[tuple[Tensor, Tensor]]:
    steps: list[object] = (
        [transforms.RandomCrop(images.shape[1:], padding=train_config.crop)] if train_config.crop else []
    )
    steps += [transforms.RandomHorizontalFlip()] if train_config.flip else []
    channels = images.shape[0]
    steps += [transforms.ToTensor(), transforms.Normalize(channels * [MEAN], channels * [STD])]
    sampler: Sequence[int] = order.tolist()
    return DataLoader(
        PilImages(images, transforms.Compose(steps)), train_config.batch_size, sampler=sampler, num_workers=0
    )


def _check(case: Case, images: Images, network: Classifier) -> None:
    """A few steps on the same batches: the same parameters from both sides, in either memory format.

    A large network amplifies what channels_last rounds otherwise, so that format is compared at a smaller rate.
    """
    train_config = replace(
        case.train_config, crop=0, flip=False, epochs=1, batch_size=SMALL, memory_format="contiguous"
    )
    few = images.take(torch.arange(FEW * SMALL))
    gentle = replace(train_config, learning_rate=train_config.learning_rate / 50, memory_format="channels_last")
    for which in (train_config, gentle):
        plain, ours = _plain(network, few, which), _ours(network, few, which)
        apart = max(float((a - b).detach().abs().max()) for a, b in zip(*map(_weights, (plain, ours)), strict=True))
        require(apart < CLOSE, f"{case.name}, {which.memory_format}: parameters {apart:.1e} apart after {FEW} steps")


def _weights(model: Classifier) -> list[Tensor]:
    return list(model.parameters())


def _order(images: Images, epoch: int) -> Tensor:
    return torch.randperm(len(images), generator=stream(SEED, "batches", epoch))  # as in raybd.training


def _normalised(x: Tensor) -> Tensor:
    return (x - MEAN) / STD


def _network(case: Case) -> Classifier:
    torch.manual_seed(SEED)
    channels = case.shape[0]
    model = build_model(case.model, case.shape, CLASSES, channels * [MEAN], channels * [STD])
    assert isinstance(model, Classifier)
    return model


def _tests(case: Case) -> list[Images]:
    return 2 * [_made(replace(case, images=case.tests))]


def _made(case: Case) -> Images:
    rng = torch.Generator().manual_seed(SEED)
    x = torch.randint(0, 256, (case.images, *case.shape), generator=rng, dtype=torch.uint8)
    return Images(x, torch.randint(0, CLASSES, (case.images,), generator=rng))


if __name__ == "__main__":
    print(alone(*sys.argv[1:]))
