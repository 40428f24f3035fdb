"""KeptNetworks: the networks of a trial that are kept in its folder while it runs."""

import logging

from torch import nn

from raybd.execution.resources import KeepModels
from raybd.tracking.client import one_line
from raybd.tracking.networks import EPOCHS, KEPT, save_network
from raybd.trials.records import TrialFolder
from raybd.types import Data, Report

log = logging.getLogger(__name__)


class KeptNetworks:
    """Writes the networks of one trial to its folder: at each probe, after its last epoch, or none.

    A network that cannot be written is told of in `note`; the trial goes on without it.
    """

    def __init__(self, which: KeepModels, folder: TrialFolder) -> None:
        self.which, self.folder, self.note = which, folder, ""

    def add(self, report: Report, data: Data) -> None:
        """Keep the network of a probe, where all are kept."""
        if self.which == "all" and report.network is not None:
            self._save(report.network, report.epoch, data)

    def end(self, network: nn.Module, data: Data) -> None:
        """Keep the network after the last epoch, where that is asked for and not done."""
        epoch = self.folder.history()[-1]["epoch"]
        if self.which != "none" and epoch not in self.folder.kept_networks:
            self._save(network, epoch, data)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the trial's run: which are kept, and of which epochs."""
        kept = self.folder.kept_networks
        return {KEPT: self.which, EPOCHS: ",".join(map(str, kept))} if kept else {}

    def _save(self, network: nn.Module, epoch: int, data: Data) -> None:
        try:
            save_network(network, data.train.shape, len(data.classes), self.folder.networks / str(epoch))
        except Exception as error:  # noqa: BLE001 - a network of others raises what it likes, and the trial shall not end
            self.note = f"the network of epoch {epoch} could not be kept: {one_line(error)}"
            log.warning(self.note)
