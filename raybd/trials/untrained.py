"""The untrained network of a trial."""

import torch
from torch import nn

from raybd.models import build_model
from raybd.seeds import derive
from raybd.training import memory_format
from raybd.trials.config import TrialConfig
from raybd.types import Data


def deployed_network(config: TrialConfig, data: Data) -> nn.Module:
    """The untrained network that is deployed, from the trial's stream of initial weights.

    Its weights lie as training lays them: one that gets a twin's weights instead computes the same bits.
    """
    torch.manual_seed(derive(config.seed, "initialisation"))
    network = config.defence.network(plain_network(config, data)).to(data.train.x.device)
    return network.to(memory_format=memory_format(config.train))


def plain_network(config: TrialConfig, data: Data) -> nn.Module:
    """The network that is trained, before a defence builds on it; its weights come from torch's global generator."""
    wanted = config.model
    return build_model(
        wanted.name,
        data.train.shape,
        len(data.classes),
        data.mean,
        data.std,
        **wanted.network_settings,
    )
