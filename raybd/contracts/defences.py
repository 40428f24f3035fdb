"""What every defence promises: `check_defence(MyDefence())` in a test of your own."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from raybd.contracts.promises import Check, made_images, promise
from raybd.defences import DEFENCES, Defence, TrainingContext
from raybd.defences.base import FLAGGED, SUSPICION
from raybd.models import build_model
from raybd.plugins import build, describe, parse, spec
from raybd.training import Checkpoint, Epoch, TrainConfig
from raybd.types import Images

CLASSES = 4


@dataclass(frozen=True)
class Case:
    """One defence on one training set."""

    defence: Defence
    images: Images = field(default_factory=lambda: made_images(160))
    trusted: Images = field(default_factory=lambda: made_images(60, seed=1))
    classes: int = CLASSES
    train_config: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=4, batch_size=32, learning_rate=0.02))

    def context(self, checkpoint: Checkpoint | None = None, seed: int = 0) -> TrainingContext:
        """What the defence is given, with an untrained network that is always the same."""
        shape = self.images.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_model("small_cnn", shape, self.classes, [0.5] * shape[0], [0.3] * shape[0], width=0.25)
        return TrainingContext(
            model=self.defence.network(model),
            images=Images(self.images.x.clone(), self.images.y.clone()),
            classes=self.classes,
            train_config=self.train_config,
            seed=seed,
            checkpoint=checkpoint,
            trusted=self.trusted if self.defence.access == "clean images" else None,
            roles=torch.zeros(len(self.images), dtype=torch.uint8) if self.defence.access == "truth" else None,
        )

    def trained(self, seed: int = 0) -> TrainingContext:
        """The context of a whole training."""
        context = self.context(seed=seed)
        list(self.defence.train(context))
        return context


def check_defence(defence: Defence) -> None:
    """Everything that a trial relies on.

    Raises:
        BrokenPromiseError: the defence breaks a promise.
    """
    for check in CHECKS.values():
        check(Case(defence))


def check_settings(case: Case) -> None:
    """Settings go through JSON, and through a command line, and come back equal."""
    defence = case.defence
    built = build("defence", DEFENCES, json.loads(json.dumps(spec(DEFENCES, defence))))
    promise(built == defence, f"{defence} comes back from its record as {built}")
    text = describe(DEFENCES, defence)
    promise(parse("defence", DEFENCES, text) == defence, f"{text} is read as another defence")


def check_usable(case: Case) -> None:
    """It can be used on small grey images."""
    problems = case.defence.check(case.images.shape, case.classes) + case.defence.count_problems(len(case.images))
    promise(not problems, "; ".join(problems))


def check_epochs(case: Case) -> None:
    """It yields every epoch once, in order, with a loss that is a number; the last one says so."""
    epochs, count = list(case.defence.train(case.context())), case.train_config.epochs
    numbers, last = [epoch.number for epoch in epochs], [epoch.last for epoch in epochs]
    promise(numbers == list(range(1, count + 1)), f"of {count} epochs it yields {numbers}")
    promise(last == [number == count for number in numbers], f"the last of {count} epochs is said to be {last}")
    promise(all(math.isfinite(epoch.loss) for epoch in epochs), f"losses are {[epoch.loss for epoch in epochs]}")


def check_findings(case: Case) -> None:
    """What it finds about training images is one finite number or one truth value for each."""
    found, count = case.trained().findings, (len(case.images),)
    for name, dtype in ((SUSPICION, None), (FLAGGED, torch.bool)):
        if (value := found.get(name)) is not None:
            fits = value.dtype == dtype if dtype else value.is_floating_point()
            promise(value.shape == count and fits, f"{name} is {value.dtype} {tuple(value.shape)}, not {count}")
            promise(bool(value.isfinite().all()), f"{name} has values that are no numbers")


def check_images_kept(case: Case) -> None:
    """The training images and their labels are what they were."""
    images = case.trained().images
    kept = torch.equal(images.x, case.images.x) and torch.equal(images.y, case.images.y)
    promise(kept, "the training images or labels have changed: work on a copy")


def check_deployed(case: Case) -> None:
    """The trained network has a finite logit for each class of each image."""
    model = case.trained().model.eval()
    with torch.no_grad():
        logits = model(case.images.x[:8].float() / 255)
    wanted = (len(case.images.x[:8]), case.classes)
    promise(logits.shape == wanted, f"logits are {tuple(logits.shape)}, not {wanted}")
    promise(bool(logits.isfinite().all()), "logits are no numbers")


def check_seed(case: Case) -> None:
    """The same seed gives the same bits, whatever was drawn meanwhile; another one another network."""
    whole = case.trained()
    torch.rand(1)
    promise(same(whole, case.trained()), "the same seed gives other weights or findings: draw from `context.seed`")
    promise(not same(whole, case.trained(seed=1)), "another seed gives the same weights: draw from `context.seed`")


def check_resumes(case: Case) -> None:
    """A training that was stopped goes on from its checkpoint and ends with the same bits."""
    with TemporaryDirectory() as folder:
        path, count = Path(folder) / "state.pt", case.train_config.epochs
        stopped: Iterator[Epoch] = case.defence.train(case.context(Checkpoint(path, every=0)))
        for _ in range(count - 1):
            next(stopped)
        kept = Checkpoint(path).load()
        promise(
            kept is not None, "no checkpoint is saved: hand `context.checkpoint` on, or save a state after each epoch"
        )
        resumed = case.context(Checkpoint(path))
        numbers = [epoch.number for epoch in case.defence.train(resumed)]
    wanted = list(range((kept or {}).get("epoch", 0) + 1, count + 1))
    promise(numbers == wanted, f"resumed, it yields {numbers}, not {wanted}")
    promise(same(case.trained(), resumed), "resumed, it ends with other weights or findings")


def same(first: TrainingContext, second: TrainingContext) -> bool:
    """Whether two trainings ended with the same weights and findings."""
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    found = set(first.findings) == set(second.findings) and all(
        torch.equal(value, second.findings[name]) for name, value in first.findings.items()
    )
    return found and all(torch.equal(value, theirs[name]) for name, value in ours.items())


CHECKS: dict[str, Check[Case]] = {
    "settings": check_settings,
    "usable": check_usable,
    "epochs": check_epochs,
    "findings": check_findings,
    "images kept": check_images_kept,
    "deployed": check_deployed,
    "seed": check_seed,
    "resumes": check_resumes,
}
