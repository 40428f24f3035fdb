"""inspect_model: a network that is already trained, beside clean ones that are trained here on the same data."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from raybd.attacks import Attack, NoAttack
from raybd.attacks import parse as parse_attack
from raybd.data import augmentation, load
from raybd.errors import InputError
from raybd.inspection.figures import Measures, figures
from raybd.inspection.references import clean_figures
from raybd.inspection.repairs import files_of, parse_repairs, repair
from raybd.inspection.report import Inspection
from raybd.inspection.suspect import Suspect, check_names, suspect_of
from raybd.inspection.verdict import judge
from raybd.models import MODELS
from raybd.training import TrainConfig
from raybd.trials.model import ModelConfig
from raybd.types import Data

REFERENCE = "small_cnn"  # the clean networks' where that of the inspected one is not known


def inspect_model(
    model: str | Path | nn.Module,
    data: str | Data,
    *,
    network: str = "",
    width: float = 1.0,
    depth: int | None = None,
    noise: float = 0.0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    attack: str | Attack | None = None,
    references: int = 9,
    train: TrainConfig | None = None,
    repairs: Sequence[str] = (),
    out: str | Path | None = None,
    data_root: str | None = None,
    measures: Measures | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Inspection:
    """Whether a trained network looks backdoored, beside clean networks trained here on the same data.

    Args:
        model: its file (a state_dict, TorchScript, a .pt2 program of torch.export, ONNX), or the network itself.
        data: the images, which are taken to be clean: a name as in sweeps, or a data set.
        network: how raybd builds it: a name of MODELS, torchvision:NAME or module:function; a state_dict needs it.
        width: of the network, as in sweeps.
        depth: likewise.
        noise: likewise.
        mean: of each channel in [0, 1], where the network wants normalised images; (): it normalises itself.
        std: likewise.
        attack: the trigger, where one is known, as NAME:SETTING=VALUE.
        references: clean networks to compare with; n of them can give a p-value of 1 / (n + 1) at best.
        train: how they are trained; None: by default, with the usual augmentation of the data.
        repairs: defences that repair a trained network, as NAME or NAME:SETTING=VALUE.
        out: file of the repaired network: .pt (its state_dict), .pt2 or .onnx.
        data_root: folder with the data sets.
        measures: settings of the measures.
        progress: told what is done now.

    Raises:
        InputError: the network cannot be read, does not take the images, or cannot be repaired so.
        DivergedError: a training diverged.
    """
    images = load(data, data_root) if isinstance(data, str) else data
    config = ModelConfig(name=network, width=width, depth=depth, noise=noise) if network else None
    _check(network, references, config)
    trigger = _attack(attack, images)
    suspect = suspect_of(model, images, config, mean, std)
    chosen, files = parse_repairs(repairs, suspect), files_of(out, repairs)
    how, settings = train or _usual_training(images), measures or Measures()
    progress(f"figures of {suspect.label}")
    own = figures(suspect.network, images, settings, trigger, suspect.has_gradients)
    reference = suspect.model or ModelConfig(name=REFERENCE)
    clean = clean_figures(images, reference, how, settings, trigger, range(references), progress=progress)
    done, repaired = [], {}
    for name, defence in chosen.items():
        progress(f"repair {name}")
        done.append(repair(name, defence, suspect, images, how, files[name]))
        repaired[name] = figures(done[-1].network, images, settings, trigger)
    about = _about(reference, how, images, references)
    return Inspection(
        suspect.label, judge(own, clean), own, clean, about, _limits(suspect, trigger, about), done, repaired
    )


def _check(network: str, references: int, config: ModelConfig | None) -> None:
    found = check_names(network, list(MODELS)) if network else []
    found += config.problems() if config is not None and not found else []
    if references < 2:
        found.append(f"references must be at least 2, got {references}: one clean network has no spread")
    if found:
        raise InputError(found)


def _attack(attack: str | Attack | None, data: Data) -> Attack:
    """The known trigger, fit for the images."""
    found = NoAttack() if attack is None else parse_attack(attack) if isinstance(attack, str) else attack
    if problems := found.check(data.train.shape, len(data.classes)):
        raise InputError(problems)
    return found


def _usual_training(data: Data) -> TrainConfig:
    crop, flip = augmentation(data.origin.name if data.origin else data.name)
    return TrainConfig(crop=crop, flip=flip)


def _about(model: ModelConfig, train: TrainConfig, data: Data, count: int) -> str:
    return (
        f"{count} of {model.name}, width {model.width:g}, trained on the {len(data.train)} images of {data.name} for "
        f"{train.epochs} epochs, weight decay {train.weight_decay:g}, learning rate {train.learning_rate:g}"
    )


def _limits(suspect: Suspect, attack: Attack, about: str) -> list[str]:
    """What the inspection cannot tell."""
    found = [
        "whether a difference is a backdoor, or the way the network was trained: the clean networks are "
        f"{about}. Name the same training (epochs, weight decay, learning rate) where you know it",
        "a trigger that is no small patch, or whose effect is no single class: Neural Cleanse looks for nothing else, "
        "and STRIP and noise votes are shown what it finds",
        "anything where the images given here are not clean themselves",
    ]
    if suspect.model is None:
        found.insert(0, "much, for the clean networks have another architecture than this one: name it with --network")
    if not isinstance(attack, NoAttack):
        found.append("other triggers than the one that was named")
    return found
