"""The settings of VIBE."""

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from raybd.defences.vibe.em import EmConfig, Pseudolabels
from raybd.defences.vibe.encoder import ADDED, EncoderSettings
from raybd.defences.vibe.heads import Variant
from raybd.defences.vibe.sources import Source, parse_source
from raybd.errors import InputError
from raybd.training import TrainConfig
from raybd.utils.constraints import NonNegative, Positive

MANY, FEW_SHARP, MANY_SHARP = 30, 10.0, 20.0  # up to so many classes, concentrations are 10, beyond 20 (published)
RELATIVE_KAPPA, RELATIVE_NU = 4.0, 3.0  # usual ones in units of 1 / spread, chosen on validation images
Deploy = Literal["head", "linear", "retrained"]


@dataclass(frozen=True, kw_only=True)
class VibeSettings(EncoderSettings):
    """Features, latent labels, heads, and what is deployed.

    Features of a file must not tell more than the trial's images do: rows of a set before it was poisoned would hold
    the truth about every poisoned image.
    """

    variant: Variant = "A"  # F: the given label may follow from the image itself
    # own: the network's weights as they are; npy:FILE: rows of the training images, in the data set's order;
    # torchvision:NAME:FILE: a frozen network with the weights of a file
    features: str = "simclr"
    pretrain_epochs: Annotated[int, Ge(1)] = 80
    tuned: bool = True  # whether the backbone is trained along
    outlier_filter: Literal["off", "distance", "composition"] = "off"  # distance: as published
    kappa: NonNegative = 0.0  # concentration of p(l|x); 0: 10 for up to 30 classes, else 20
    nu: NonNegative = 0.0  # of p(y|l,x); 0: likewise
    # relative: kappa and nu over the spread of the cosines of the features (`heads.cosine_spread`), with which one
    # setting means the same on every encoder
    kappa_unit: Literal["absolute", "relative"] = field(default="absolute", metadata=ADDED)
    sharpness: Positive = 25.0  # lambda of the E-step
    prior_scale: NonNegative = 0.02  # c: pi = softmax(c theta)
    prior_rate: NonNegative = 0.1  # learning rate of theta; with a large c it collapses
    iterations: Annotated[int, Ge(0)] = 0  # M-steps in all; 0: as many as the trial's epochs take, and 1000 or more
    e_steps: Annotated[int, Ge(1)] = 10  # spread evenly; too many take the poison back in
    learning_rate: Positive = 3e-3
    prototype_rate: Positive = 1.0  # times the learning rate
    batch_size: Annotated[int, Ge(2)] = 256
    freeze_eta: bool = False  # whether the corrupted prototypes stay
    pseudolabels: Pseudolabels = "hard"  # annealed: soft, lambda rising from 1
    unassigned: Annotated[float, Interval(ge=0, lt=1)] = 0.0  # share of the images that no class has to explain
    flip_stop: Annotated[float, Interval(ge=0, lt=1)] = 0.0  # E-steps end once one changes fewer of the labels

    # what is deployed: the paper's head; multinomial logistic regression of the pseudolabels on the features; or the
    # trial's network, trained from the start on the pseudolabels
    deploy: Deploy = field(default="head", metadata=ADDED)
    linear_penalty: Positive = field(default=1e-3, metadata=ADDED)  # of linear: on the weights' squares, halved
    retrain_epochs: Annotated[int, Ge(0)] = field(default=0, metadata=ADDED)  # of retrained; 0: as many as the trial's

    @property
    def source(self) -> Source:
        """Where the features come from. Raises InputError where the setting names nothing."""
        return parse_source(self.features)

    def concentrations(self, classes: int) -> tuple[float, float]:
        """kappa and nu for so many classes, in the unit that is set."""
        usual = FEW_SHARP if classes <= MANY else MANY_SHARP
        kappa, nu = (RELATIVE_KAPPA, RELATIVE_NU) if self.kappa_unit == "relative" else (usual, usual)
        return self.kappa or kappa, self.nu or nu

    def em(self, train_config: TrainConfig, iterations: int) -> EmConfig:
        """The settings of the EM loop; momentum and weight decay are the trial's."""
        names = {f.name for f in fields(EmConfig)} & {f.name for f in fields(self)}
        settings = {name: getattr(self, name) for name in names} | {"iterations": iterations}
        return EmConfig(**settings, momentum=train_config.momentum, weight_decay=train_config.weight_decay)

    def source_problems(self) -> list[str]:
        """Features that there are none of, or that do not go with the rest."""
        try:
            source = self.source
        except InputError as error:
            return error.problems
        found = []
        if not source.learnt and self.tuned:
            found.append(f"features {self.features} stay as they are: tuned must be false")
        if source.kind == "npy" and self.deploy != "retrained":
            found.append("rows of a file are known of the training images alone: deploy must be retrained")
        return found
