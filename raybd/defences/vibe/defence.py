"""VIBE: given labels are noisy readings of latent clean ones, which expectation-maximisation finds (arXiv:2503.08829).

Sabolic, Grcic and Segvic, "Seal Your Backdoor with Variational Defense", ICCV 2025. A poisoned image's content and
its label disagree; features that were learnt without labels side with the content.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

from torch import nn

from raybd.defences.base import Defence, TrainingContext
from raybd.defences.vibe.heads import LinearNetwork, VibeNetwork
from raybd.defences.vibe.retraining import retrained
from raybd.defences.vibe.settings import VibeSettings
from raybd.defences.vibe.sources import Rows, frozen_network, read_rows, row_problems
from raybd.defences.vibe.training import ENOUGH, EmTraining
from raybd.models import Classifier, feature_problem
from raybd.models.base import require
from raybd.training import Epoch


@dataclass(frozen=True, kw_only=True)
class Vibe(VibeSettings, Defence):
    """Learns features without labels, then labels and prototypes in turn; momentum and weight decay are the trial's.

    The defaults are the published ones but for the number of iterations and E-steps, a tenth of it, with the learning
    rate that this takes. `deploy` "linear" and "retrained", relative concentrations, views other than the default ones
    and features of a file are ours, not the paper's.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ss_a": {"variant": "A", "outlier_filter": "distance"},
        "ss_f": {"variant": "F", "outlier_filter": "distance"},
        "fm_a": {"variant": "A", "tuned": False, "iterations": 2000, "learning_rate": 0.01, "freeze_eta": True},
        "fm_f": {"variant": "F", "tuned": False, "iterations": 2000, "learning_rate": 0.01},
        # ours: on frozen features of noisier views, under sharper heads
        "retrained": {"deploy": "retrained", "tuned": False, "learning_rate": 0.01, "view_noise": 0.3}
        | {"kappa": 40.0, "nu": 30.0},
    }

    def network(self, model: nn.Module) -> nn.Module:
        """What is deployed: a head around the features of `model`, or `model` itself where it is retrained.

        Raises:
            InputError: features are to be those of `model`, and it does not tell them.
        """
        if self.deploy != "retrained":
            return self._encoder(model, _classes(model))
        if self.source.learnt:
            _features_of(model)
        return model

    def train(self, context: TrainingContext) -> Iterator[Epoch]:
        """Features, filter, then EM; an epoch is its share of the iterations, or of the retraining's epochs."""
        if self.deploy == "retrained":
            encoder = self._encoder(copy.deepcopy(context.model), context.classes).to(context.images.x.device)
            yield from retrained(self, context, encoder)
            return
        run = EmTraining(self, context, cast(VibeNetwork, context.model), context.checkpoint)
        last = context.train_config.epochs
        for number in range(run.first, last + 1):
            loss = run.epoch(number)
            yield Epoch(number, loss, number == last, run.numbers() | run.cost.numbers(number))
            run.save(number)

    def problems(self, shape: tuple[int, int, int], classes: int) -> list[str]:
        """Fewer than two classes; features that there are none of, or that do not go with the rest."""
        found = [] if classes > 1 else [f"it needs 2 classes or more, got {classes}"]
        return found + self.source_problems()

    def passes(self, epochs: int, images: int) -> float:
        """Two views an image of the pretraining, the M-steps that train the backbone along, and the retraining."""
        pretraining = 2 * self.pretrain_epochs if self.source.kind in ("simclr", "nnclr") else 0
        steps = self.iterations or max(ENOUGH, epochs * math.ceil(images / self.batch_size))
        along = steps * min(self.batch_size, images) / images if self.tuned else 0
        again = (self.retrain_epochs or epochs) if self.deploy == "retrained" else 0
        return float(pretraining + along + again)

    def count_problems(self, count: int) -> list[str]:
        """Rows of features that are not those of so many training images."""
        return row_problems(self.source.file, count) if self.source.kind == "npy" else []

    def files(self) -> dict[str, str]:
        """The file that features come from."""
        file = "" if self.source_problems() else self.source.file
        return {"features": file} if file else {}

    def by_content(self, contents: Mapping[str, str]) -> Self:
        """This defence with the content of its file in place of the path, as a trial's key knows it."""
        if "features" not in contents:
            return self
        return replace(self, features=self.source.with_file(contents["features"]))

    def _encoder(self, model: nn.Module, classes: int) -> VibeNetwork:
        """The network whose heads EM learns, around the fresh `model` or in its place."""
        backbone = self._backbone(model, classes)
        kappa, nu = self.concentrations(classes)
        kind = LinearNetwork if self.deploy == "linear" else VibeNetwork
        network = kind(backbone, self.variant, kappa, nu, self.prior_scale, self.kappa_unit == "relative")
        return network.to(backbone.mean.device)

    def _backbone(self, model: nn.Module, classes: int) -> Classifier:
        source = self.source
        if source.kind == "npy":
            return Rows(read_rows(source.file).shape[1], classes)
        return _features_of(model) if source.learnt else frozen_network(source, classes)


def _features_of(model: nn.Module) -> Classifier:
    """`model`. Raises InputError where it does not tell its features."""
    require((isinstance(model, Classifier), f"VIBE needs features: {feature_problem(model)}"))
    return cast(Classifier, model)


def _classes(model: nn.Module) -> int:
    return _features_of(model).head.out_features
