"""Defences by name. A new one is a file here and a line in the table; docs/adding.md shows it."""

from raybd.defences.abl import Abl
from raybd.defences.activation_clustering import ActivationClustering
from raybd.defences.anp import Anp
from raybd.defences.asd import Asd
from raybd.defences.augmented import Augmented
from raybd.defences.base import Defence, TrainingContext
from raybd.defences.cbd import Cbd
from raybd.defences.clp import Clp
from raybd.defences.dbd import Dbd
from raybd.defences.fine_pruning import FinePruning
from raybd.defences.fine_tuning import FineTuning
from raybd.defences.ft_sam import FtSam
from raybd.defences.ibau import Ibau
from raybd.defences.nab import Nab
from raybd.defences.nad import Nad
from raybd.defences.neural_cleanse import NeuralCleanseRepair
from raybd.defences.none import NoDefence
from raybd.defences.npd import Npd
from raybd.defences.oracle import Oracle
from raybd.defences.pdb import Pdb
from raybd.defences.regularised import Regularised
from raybd.defences.sau import Sau
from raybd.defences.scan import Scan
from raybd.defences.spectral import Spectral
from raybd.defences.vibe import Vibe
from raybd.plugins import Table

_DEFENCES: dict[str, type[Defence]] = {
    "anp": Anp,
    "clp": Clp,
    "fine_pruning": FinePruning,
    "fine_tuning": FineTuning,
    "ft_sam": FtSam,
    "ibau": Ibau,
    "nad": Nad,
    "npd": Npd,
    "sau": Sau,
    "neural_cleanse": NeuralCleanseRepair,
    "activation_clustering": ActivationClustering,
    "abl": Abl,
    "asd": Asd,
    "augmented": Augmented,
    "cbd": Cbd,
    "dbd": Dbd,
    "nab": Nab,
    "pdb": Pdb,
    "none": NoDefence,
    "oracle": Oracle,
    "regularised": Regularised,
    "scan": Scan,
    "spectral": Spectral,
    "vibe": Vibe,
}
DEFENCES = Table("defence", Defence, _DEFENCES)  # type: ignore[type-abstract]

__all__ = ["DEFENCES", "Defence", "NoDefence", "Oracle", "TrainingContext"]
