"""What a sweep says of the networks that it keeps: their size, and finished trials without them."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch

from raybd.defences import Defence
from raybd.errors import InputError
from raybd.execution.resources import KeepModels
from raybd.models import sketch_model
from raybd.models.base import Shape
from raybd.training import probe_schedule
from raybd.trials.config import TrialConfig
from raybd.trials.model import NETWORK, ModelConfig
from raybd.types import Data
from raybd.utils.memory import format_bytes

if TYPE_CHECKING:  # MLflow takes a second to import, and a dry run needs none
    from raybd.execution.plan import SweepPlan

FILE = 6000  # bytes of a network's folder besides its program: what MLflow writes of it
TENSOR = 2200  # bytes that the program says of each weight: its name and the operations on it


def sizes_text(which: KeepModels, configs: Sequence[TrialConfig], data: Mapping[str, Data]) -> str:
    """How large the networks are that such trials keep, all together; "" where none is kept."""
    if which == "none":
        return ""
    networks = [(_kept(which, config), _bytes(config, data[config.image_set])) for config in configs]
    count, total = sum(kept for kept, _ in networks), sum(kept * size for kept, size in networks)
    unknown = " (those whose size is not known before they are built left out)" * any(not size for _, size in networks)
    size = f"about {format_bytes(total)} on this disk and as much in the tracking store{unknown}"
    return f"--keep-models {which}: {count} networks of {len(configs)} trials, {size}"


def told_of_networks(which: KeepModels, plan: "SweepPlan") -> str:
    """What is to be said where networks are kept: how large they are, and which trials finished without them."""
    if which == "none":
        return ""
    lines = [sizes_text(which, plan.todo, plan.data)] if plan.todo else []
    if without := plan.store.without_networks(plan.keys, which):
        some = f"{len(without)} of the finished trials" if len(without) > 1 else "One of the finished trials"
        lines.append(
            f"{some} kept no such networks when they ran, and none is trained again for that: `raybd model RUN_ID "
            f"--out FILE.pt2 --retrain` does it for one (run ids: raybd runs {plan.name}; the first: {without[0]})"
        )
    return "\n".join(lines)


def _kept(which: KeepModels, config: TrialConfig) -> int:
    """How many networks of a trial are kept."""
    if which == "last" or config.model.kind is not NETWORK:
        return 1
    return len({*(config.probes or probe_schedule(config.train.epochs)), config.train.epochs})


def _bytes(config: TrialConfig, data: Data) -> int:
    """Bytes of one network of a trial as it is kept, to within a tenth for large ones; 0 where not known."""
    if config.model.kind is not NETWORK:
        return FILE
    return _network_bytes(config.model, config.defence, data.train.shape, len(data.classes))


@cache
def _network_bytes(model: ModelConfig, defence: Defence, shape: Shape, classes: int) -> int:
    network = sketch_model(model.name, shape, classes, **model.network_settings)
    if network is None:
        return 0
    try:
        with torch.random.fork_rng(devices=[]), torch.device(next(network.parameters(), torch.empty(0)).device):
            network = defence.network(network)
    except (InputError, NotImplementedError):  # of a defence that reads weights: about the network that it is given
        pass
    sizes: list[int] = [value.numel() * value.element_size() + TENSOR for value in network.state_dict().values()]
    return FILE + sum(sizes)
