"""The training loop: the whole set on the device as bytes, whole batches, no host sync in a step. Knows no attack.

An attacker who trains the network comes with the images (`AttackedImages`), and is asked at each step.

Of a set that is streamed (`raybd.pixels`) the next batches are read while one is trained on, with the same bits.

Every random number of an epoch comes from streams named by (seed, purpose, epoch), so a training that is resumed
after an epoch goes on with the same bits as one that was never stopped.
"""

import math
from collections.abc import Iterator

import torch
from torch import nn

from raybd.errors import DivergedError
from raybd.pixels import batches_of
from raybd.seeds import derive, stream
from raybd.training.attacker import TrainingAttacker, attacker_of
from raybd.training.batches import augment, autocast, in_batches, memory_format, prepare
from raybd.training.checkpoint import Checkpoint
from raybd.training.config import Epoch, TrainConfig
from raybd.training.data_parallel import Ranks
from raybd.training.optimization import learning_rate, optimizer_of
from raybd.training.weighting import Flagged, LossOf, Step, batch_means, plain, weighted, without_poison
from raybd.types import Images


def fit(
    model: nn.Module,
    images: Images,
    train_config: TrainConfig,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> Iterator[Epoch]:
    """Train `model`, in place, on `images` (same device), yielding after every epoch; resumes from `checkpoint`.

    With several workers every rank calls this, with the same arguments: see raybd/training/data_parallel.py.

    Raises:
        InputError: there are not as many ranks as `train_config` has workers.
        DivergedError: the loss is no longer a number.
    """
    ranks = Ranks.of(train_config.workers, train_config.sync_batch_norm)
    model.to(memory_format=memory_format(train_config))
    optimizer = optimizer_of(model, train_config)
    attacker = attacker_of(images)
    first, best = _restore(model, optimizer, attacker, checkpoint)
    wrapped = ranks.wrap(model)
    for number in range(first, train_config.epochs + 1):
        loss = _one_epoch(wrapped, optimizer, images, train_config, seed, number, ranks)
        if not math.isfinite(loss):
            raise DivergedError(f"the training loss is {loss} in epoch {number} of {train_config.epochs}")
        best = (loss, number) if loss < best[0] else best
        last = number == train_config.epochs or 0 < train_config.patience <= number - best[1]
        yield Epoch(number, loss, last)
        if last:
            return
        if checkpoint is not None:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save(state | {"epoch": number, "best": list(best), "attacker": attacker.state()})


def _restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, attacker: TrainingAttacker, checkpoint: Checkpoint | None
) -> tuple[int, tuple[float, int]]:
    state = checkpoint.load() if checkpoint is not None else None
    if state is None:
        return 1, (math.inf, 0)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    attacker.restore(state.get("attacker", {}))
    return state["epoch"] + 1, (state["best"][0], state["best"][1])


def _one_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Images,
    train_config: TrainConfig,
    seed: int,
    number: int,
    ranks: Ranks,
) -> float:
    attacker, images, device = attacker_of(images), images.at(number), images.x.device
    order = torch.randperm(len(images), generator=stream(seed, "batches", number)).to(device)
    rng = stream(seed, "augmentation", number, device=device)
    # Dropout and the like draw from the global generator: on each rank for its own share.
    torch.manual_seed(derive(seed, "network", number, *ranks.stream))
    batches = in_batches(order, train_config.batch_size)
    steps = [Step(step, index, len(index)) for step, index in enumerate(batches, start=(number - 1) * len(batches))]
    loss_of = plain(images, train_config.label_smoothing)
    if isinstance(images, Flagged):
        steps, loss_of = _weighted(images, train_config, steps)
    total, total_steps = torch.zeros((), device=device), train_config.epochs * len(batches)
    model.train()
    attacker.begin(number)
    pictures = batches_of(images.x, [step.index for step in steps])
    for step, batch in zip(steps, pictures, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(train_config, step.number, total_steps)
        part, weight = ranks.share(len(step.index))
        x = prepare(augment(batch, train_config.crop, train_config.flip, rng)[part], train_config)
        x = attacker.batch(x, step.index[part])
        with autocast(train_config, device):
            loss = loss_of(model(x), step.index[part], step)
        loss = loss if weight == 1 else loss * weight
        optimizer.zero_grad(set_to_none=True)
        ranks.backward(attacker.objective(loss))
        optimizer.step()
        attacker.step(step.number / total_steps)
        total += loss.detach() * step.size
    return float(ranks.sum(total)) / sum(step.size for step in steps)


def _weighted(images: Flagged, train_config: TrainConfig, steps: list[Step]) -> tuple[list[Step], LossOf]:
    if train_config.beta_mode == "batchmean":
        return steps, batch_means(images, train_config.label_smoothing, train_config.beta)
    seen = steps if train_config.beta else without_poison(steps, images)
    return seen, weighted(images, train_config.label_smoothing, train_config.beta)


def probe_schedule(epochs: int) -> list[int]:
    """The epochs at which a trial is measured: dense while a backdoor is learnt, then doubling, and the last."""
    return sorted({min(2**k, epochs) for k in range(epochs.bit_length() + 1)} | {min(3, epochs), epochs})
