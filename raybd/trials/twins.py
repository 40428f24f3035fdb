"""Clean twins: the control of a trial is the same config without poison, trained once for all that need it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from raybd.attacks import NoAttack
from raybd.defences import TrainingContext
from raybd.training import Checkpoint, Epoch, Ranks
from raybd.trials.config import TrialConfig
from raybd.trials.model import NETWORK
from raybd.utils.cache import compute_once, load_tensors, verify_checksums
from raybd.utils.files import write_atomically, write_text

CHECKPOINT, HISTORY = "checkpoint.pt", "history.json"  # of a training that has not ended
ENTRY = "training.pt"  # of one that has
SCRIPT_ENTRY = "out.tar"  # of a user's script: the folder that it left


def twin_of(config: TrialConfig) -> TrialConfig:
    """The config of the clean twin of `config`: no attack, no metrics, no other weight for poisoned images."""
    train = replace(config.train, beta=1.0, beta_mode="sample")
    contents = tuple(found for found in config.contents if not found[0].startswith("attack."))
    return replace(config, attack=NoAttack(), poison_rate=0.0, metrics=(), train=train, contents=contents)


def awaited_twin(config: TrialConfig, cache_folder: Path) -> str:
    """The key of the clean twin that `config` needs and `cache_folder` does not hold; "" where there is none."""
    script = config.script is not None and not config.script.is_function
    if not (config.model.kind is NETWORK or script) or (config.poison_rate and not compares_with_twin(config)):
        return ""
    twin = twin_of(config).key
    return "" if (cache_folder / twin / (SCRIPT_ENTRY if script else ENTRY)).exists() else twin


def compares_with_twin(config: TrialConfig) -> bool:
    """Whether a metric of `config` compares it with its clean twin."""
    return any(metric.needs_twin for metric in config.metrics)


@dataclass(frozen=True)
class Twin:
    """A clean twin in a folder, which holds EPOCH.pt, the state of the network, for each probe and the last epoch."""

    folder: Path
    epochs: list[Epoch]
    findings: dict[str, Tensor]  # of the defence, on the CPU

    def load(self, model: nn.Module, epoch: int) -> nn.Module:
        """`model` with the weights after `epoch`, in evaluation mode."""
        model.load_state_dict(load_tensors(self.folder / f"{epoch}.pt"))
        return model.eval()

    def replay(self, model: nn.Module, probes: set[int], findings: dict[str, Tensor]) -> Iterator[Epoch]:
        """The epochs of the training; `model` gets the weights at the probes, `findings` those of the defence."""
        findings |= self.findings
        for epoch in self.epochs:
            if epoch.last or epoch.number in probes:
                self.load(model, epoch.number)
            yield epoch


def clean_twin(
    config: TrialConfig,
    context: Callable[[], TrainingContext],
    probes: set[int],
    cache_folder: Path,
    heartbeat: Callable[[], None] = lambda: None,
    conclude: Callable[[TrainingContext], dict[str, float]] = lambda context: {},
) -> Twin:
    """The clean twin of `config`, trained by one process if `cache_folder` does not hold it yet.

    Args:
        config: of the trial.
        context: makes the clean training set and a new network; called only if the twin must be trained.
        probes: the epochs whose weights are saved, besides the last.
        cache_folder: holds a folder for each twin, called by its key.
        heartbeat: called while another process trains the twin.
        conclude: numbers of the last epoch that need the truth, once the training has ended.

    Raises:
        OSError: the weights cannot be written.
        DivergedError: the training diverged.
    """
    folder = cache_folder / twin_of(config).key
    return compute_once(
        folder / ENTRY,
        lambda: train_twin(config, context(), probes, folder, conclude),
        load=partial(_load, probes),
        save=_save,
        heartbeat=heartbeat,
        resume_files=(folder / CHECKPOINT, folder / HISTORY),
    )


def train_twin(
    config: TrialConfig,
    context: TrainingContext,
    probes: set[int],
    folder: Path,
    conclude: Callable[[TrainingContext], dict[str, float]] = lambda context: {},
) -> Twin:
    """The clean twin of `config`, trained in `folder`, or from the checkpoint that an earlier attempt left there."""
    history = folder / HISTORY
    epochs = json.loads(history.read_text()) if history.exists() else []
    checkpoint = Ranks.of(config.train.workers).checkpoint(Checkpoint(folder / CHECKPOINT, epochs=config.train.epochs))
    for epoch in config.defence.train(replace(context, checkpoint=checkpoint)):
        if epoch.last:
            epoch = replace(epoch, numbers=epoch.numbers | conclude(context))
        epochs = [earlier for earlier in epochs if earlier["number"] < epoch.number] + [asdict(epoch)]
        if epoch.last or epoch.number in probes:
            write_atomically(folder / f"{epoch.number}.pt", partial(torch.save, context.model.state_dict()))
        write_text(history, json.dumps(epochs))
        context.heartbeat()
    findings = {name: found.cpu() for name, found in context.findings.items()}
    return Twin(folder, [Epoch(**epoch) for epoch in epochs], findings)


def _save(twin: Twin, path: Path) -> None:
    # as JSON, for a defence's numbers may be of NumPy's types, which torch.load refuses
    epochs = json.dumps([asdict(epoch) for epoch in twin.epochs])
    torch.save({"epochs": epochs, "findings": twin.findings}, path)


def _load(probes: set[int], path: Path) -> Twin:
    found = load_tensors(path)
    twin = Twin(path.parent, [Epoch(**epoch) for epoch in json.loads(found["epochs"])], found["findings"])
    for epoch in twin.epochs:
        if epoch.last or epoch.number in probes:
            verify_checksums(twin.folder / f"{epoch.number}.pt")
    return twin
