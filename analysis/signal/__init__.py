"""Signal: how well measures taken while a network trains foretell the verdict on its setting.

`signal_table` answers for each measure at each epoch, `trade_off_table` for pairs of measures at the end,
`early_warning` for all measures together. They read the observations that `observe` makes of a map and the histories of
its trials, or that `read_observations` finds in a file.
"""

from analysis.signal.measures import MEASURES, Measure
from analysis.signal.observations import observe, read_observations, write_observations
from analysis.signal.replay import Replay, replay
from analysis.signal.sentences import signal_sentences
from analysis.signal.table import signal_table
from analysis.signal.trade_offs import trade_off_table
from analysis.signal.warning import EarlyWarning, early_warning, fit_stages, fit_warning

__all__ = [
    "MEASURES",
    "EarlyWarning",
    "Measure",
    "Replay",
    "early_warning",
    "fit_stages",
    "fit_warning",
    "observe",
    "read_observations",
    "replay",
    "signal_sentences",
    "signal_table",
    "trade_off_table",
    "write_observations",
]
