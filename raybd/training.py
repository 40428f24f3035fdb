"""The training loop: the whole set on the device as bytes, whole batches, no host sync in a step. Knows no attack.

Every random number of an epoch comes from streams named by (seed, purpose, epoch), so a training that is resumed
after an epoch goes on with the same bits as one that was never stopped.
"""

import logging
import math
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.errors import DivergedError
from raybd.parallel import together
from raybd.seeds import derive, stream
from raybd.team import Team
from raybd.types import Images, settle_floats
from raybd.weighting import Flagged, LossOf, Step, batch_means, plain, weighted, without_poison

log = logging.getLogger(__name__)
CACHED = 2**15  # pixels of a batch that is predicted on a CPU: what a small network makes of them fits its cache
WARM_UP = 0.3  # share of a one-cycle schedule that rises


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained; every field changes what comes out."""

    epochs: int = 20
    batch_size: int = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1  # the peak
    momentum: float = 0.9  # of sgd
    weight_decay: float = 5e-4  # on every parameter
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    label_smoothing: float = 0.0
    crop: int = 0  # pixels of black padding before a random crop of each image
    flip: bool = False  # mirror each image with probability 1/2
    beta: float = 1.0  # weight of each poisoned image's loss; 0: poison is left out
    beta_mode: Literal["sample", "batchmean"] = "sample"  # see raybd/weighting.py
    patience: int = 0  # stop after so many epochs without a lower training loss; 0: never
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast on a GPU, fp32 on a CPU
    memory_format: Literal["channels_last", "contiguous"] = "channels_last"  # no slower on a CPU, faster on a GPU

    def __post_init__(self) -> None:
        settle_floats(self)

    @property
    def weighted(self) -> bool:
        """Whether poison is weighted otherwise than all other images."""
        return self.beta != 1 or self.beta_mode != "sample"


@dataclass(frozen=True)
class Epoch:
    """One epoch of training that has ended."""

    number: int  # from 1
    loss: float  # mean over its images, in nats
    last: bool
    numbers: dict[str, float] = field(default_factory=dict)  # what a defence says of itself


class Checkpoint:
    """Where a training's state is kept while it runs: one file, replaced whole, at most every `every` seconds."""

    def __init__(self, path: Path, every: float = 60.0) -> None:
        self.path, self.every, self._saved = path, every, time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state last saved; None where there is none that can be read."""
        if not self.path.exists():
            return None
        try:
            return dict(load_tensors(self.path))
        except Exception as error:  # noqa: BLE001 - a broken file raises whatever its bytes suggest
            log.warning("the checkpoint %s cannot be read (%s): training starts anew", self.path, error)
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Keep `state` if the last one is old enough."""
        if time.monotonic() - self._saved < self.every:
            return
        self._saved, part = time.monotonic(), self.path.with_suffix(".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, part)
            part.replace(self.path)
        except (OSError, RuntimeError) as error:  # PyTorch says a full disk its own way; the training can do without
            log.warning("the checkpoint %s cannot be written: %s", self.path, error)
            part.unlink(missing_ok=True)


def load_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """What `torch.save` wrote to `path`, if every byte is as it was written; nothing but tensors and plain values.

    Raises:
        Exception: whatever a broken file suggests.
    """
    with zipfile.ZipFile(path) as file:  # PyTorch itself does not look at the checksums
        if (broken := file.testzip()) is not None:
            raise ValueError(f"{path} is damaged: its part {broken} has another checksum")
    found: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return found


def fit(
    model: nn.Module,
    images: Images,
    how: TrainConfig,
    seed: int,
    checkpoint: Checkpoint | None = None,
    workers: int = 1,
) -> Iterator[Epoch]:
    """Train `model`, in place, on `images` (same device), yielding after every epoch; resumes from `checkpoint`.

    `workers` above 1: in so many processes, each with its share of every batch; see raybd/team.py.

    Raises:
        InputError: this cannot be shared among `workers`.
        BrokenTeamError: one of them died.
        DivergedError: the loss is no longer a number.
    """
    model.to(memory_format=memory_format(how))
    optimizer = optimizer_of(model, how)
    first, best = _restore(model, optimizer, checkpoint)
    with together(partial(_one_epoch, model, optimizer, images, how, seed), workers, images.x.device) as one_epoch:
        for number in range(first, how.epochs + 1):
            loss = one_epoch(number)
            if not math.isfinite(loss):
                raise DivergedError(f"the training loss is {loss} in epoch {number} of {how.epochs}")
            best = (loss, number) if loss < best[0] else best
            last = number == how.epochs or (how.patience > 0 and number - best[1] >= how.patience)
            yield Epoch(number, loss, last)
            if last:
                return
            if checkpoint is not None:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                checkpoint.save(state | {"epoch": number, "best": list(best)})


def _restore(
    model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint | None
) -> tuple[int, tuple[float, int]]:
    state = checkpoint.load() if checkpoint is not None else None
    if state is None:
        return 1, (math.inf, 0)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"] + 1, (state["best"][0], state["best"][1])


def _one_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Images,
    how: TrainConfig,
    seed: int,
    number: int,
    team: Team,
) -> float:
    images, device = images.at(number), images.x.device
    order = torch.randperm(len(images), generator=stream(seed, "batches", number)).to(device)
    rng = stream(seed, "augmentation", number, device=device)
    torch.manual_seed(derive(seed, "network", number, *team.own))  # dropout and the like draw from the global generator
    batches = in_batches(order, how.batch_size)
    steps = [(step, index, len(index)) for step, index in enumerate(batches, start=(number - 1) * len(batches))]
    loss_of = plain(images, how.label_smoothing)
    if isinstance(images, Flagged):
        steps, loss_of = _weighted(images, how, steps)
    total = torch.zeros((), device=device)
    model.train()
    for step, index, size in steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(how, step, how.epochs * len(batches))
        x = prepare(augment(images.x[index], how.crop, how.flip, rng), how)
        with autocast(how, device):
            loss = loss_of(team.logits(model, x), index, size)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        team.add_up(model)
        optimizer.step()
        total += loss.detach() * size
    return float(total) / sum(size for _, _, size in steps)


def _weighted(images: Flagged, how: TrainConfig, steps: list[Step]) -> tuple[list[Step], LossOf]:
    if how.beta_mode == "batchmean":
        return steps, batch_means(images, how.label_smoothing, how.beta)
    seen = steps if how.beta else without_poison(steps, images)
    return seen, weighted(images, how.label_smoothing, how.beta)


def in_batches(order: Tensor, size: int) -> list[Tensor]:
    """`order` in batches; a lone last image waits for another epoch, for batch norm cannot take it."""
    batches = list(order.split(size))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def augment(x: Tensor, crop: int, flip: bool, rng: torch.Generator) -> Tensor:
    """Each image of `x` (N, C, H, W) moved by up to `crop` pixels over black and mirrored, each by its own draw."""
    n, _, height, width = x.shape
    if crop:
        windows = F.pad(x, (crop, crop, crop, crop)).unfold(2, height, 1).unfold(3, width, 1)
        down, right = torch.randint(0, 2 * crop + 1, (2, n), generator=rng, device=x.device)
        x = windows[torch.arange(n, device=x.device), :, down, right]
    if flip:
        mirrored = torch.rand(n, generator=rng, device=x.device) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return x


def prepare(x: Tensor, how: TrainConfig) -> Tensor:
    """Bytes to what models see: (N, C, H, W) float32 in [0, 1], in the memory format of `how`."""
    return x.to(memory_format=memory_format(how)).float().div_(255)


def learning_rate(how: TrainConfig, step: int, steps: int) -> float:
    """The learning rate at `step` (from 0) of `steps`.

    cosine: peak (1 + cos(pi step / steps)) / 2 (Loshchilov and Hutter, arXiv:1608.03983, without restarts);
    one_cycle: cosine from peak / 25 up over the first 30 % and down to peak / 250,000 (Smith and Topin,
    arXiv:1708.07120, with PyTorch's defaults and a constant momentum).
    """
    peak, top = how.learning_rate, WARM_UP * steps - 1
    if how.schedule == "constant":
        return peak
    if how.schedule == "cosine":
        return _cosine(peak, 0.0, step / steps)
    if step <= top:
        return _cosine(peak / 25, peak, step / top if top > 0 else 1.0)
    return _cosine(peak, peak / 250_000, (step - top) / max(steps - 1 - top, 1e-9))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def optimizer_of(model: nn.Module, how: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of `how` for all weights of `model`."""
    # One fused kernel for all parameters: a small network's step is mostly the optimiser's own overhead.
    if how.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay, fused=True)
    return torch.optim.SGD(
        model.parameters(),
        lr=how.learning_rate,
        momentum=how.momentum,
        weight_decay=how.weight_decay,
        fused=True,
    )


def memory_format(how: TrainConfig) -> torch.memory_format:
    """PyTorch's name for the memory format of `how`."""
    return torch.channels_last if how.memory_format == "channels_last" else torch.contiguous_format


def autocast(how: TrainConfig, device: torch.device) -> torch.autocast:
    """bfloat16 autocast where `how` wants it on `device`, else a context that does nothing."""
    wanted = how.precision == "bf16" or (how.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


@torch.inference_mode()
def predict(model: nn.Module, x: Tensor, how: TrainConfig) -> Tensor:
    """Logits (N, K) float32 of `model` in evaluation mode for the bytes `x` (N, C, H, W)."""
    model.eval()
    with autocast(how, x.device):
        return torch.cat([model(prepare(part, how)).float() for part in x.split(_predicted_at_once(x))])


def _predicted_at_once(x: Tensor) -> int:
    return 512 if x.is_cuda else max(64, min(256, CACHED // (x.shape[-2] * x.shape[-1])))


def probe_schedule(epochs: int) -> list[int]:
    """The epochs at which a trial is measured: dense while a backdoor is learnt, then doubling, and the last."""
    return sorted({min(2**k, epochs) for k in range(epochs.bit_length() + 1)} | {min(3, epochs), epochs})
