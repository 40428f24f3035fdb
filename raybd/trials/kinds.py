"""Which kind of trial a config is."""

from raybd.trials.base import TrialKind
from raybd.trials.config import TrialConfig
from raybd.trials.convex import ConvexFit
from raybd.trials.model import CONVEX, NETWORK, SCRIPT, ModelKind
from raybd.trials.network import NetworkTraining
from raybd.trials.script import ScriptTraining

KINDS: dict[ModelKind, TrialKind] = {NETWORK: NetworkTraining(), CONVEX: ConvexFit(), SCRIPT: ScriptTraining()}


def kind_of(config: TrialConfig) -> TrialKind:
    """The kind of trial that fits or trains the model of `config`."""
    return KINDS[config.model.kind]
