"""Neural Cleanse: for each class the smallest patch that sends all images there; one that is far smaller is a trigger.

Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao, "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural
Networks", IEEE S&P 2019, eq. 2 to 4.
"""

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from raybd.metrics.base import Metric
from raybd.metrics.detection.roc import Values, roc_metrics
from raybd.models.trigger_inversion import InversionSettings, TriggerInversion, anomaly_index, invert_triggers
from raybd.seeds import forked_rng, stream
from raybd.types import Data, MetricContext
from raybd.utils.constraints import Positive, violations


@dataclass(frozen=True, kw_only=True)
class NeuralCleanse(Metric):
    """Inverts a trigger for every class, all at once, in several runs from random starts.

    A class is flagged in a run when its mask is the smaller kind of outlier, by an anomaly index above the threshold;
    the network is infected where more than half of the runs say so. The classes' indices also rank the true targets.
    """

    runs: Annotated[int, Ge(1)] = 3
    steps: Annotated[int, Ge(1)] = 200
    batch_size: Annotated[int, Ge(1)] = 32
    learning_rate: Positive = 0.1  # of Adam
    size_weight: Positive = 1e-3  # lambda at the start; it follows the success of the trigger
    success: Annotated[float, Interval(gt=0, le=1)] = 0.99  # of the inverted trigger, wanted
    threshold: Positive = 2.0  # of the anomaly index

    every_probe: ClassVar[bool] = False
    needs_twin: ClassVar[bool] = True

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """Metrics of the network, and "null_" those of the twin; mask sizes are kept as arrays.

        Raises:
            InputError: the trial has no clean twin.
        """
        twin = context.clean_twin("neural_cleanse")
        targets = context.triggered.y[context.measured].unique().cpu().numpy()
        found: dict[str, float | Tensor] = {}
        for prefix, model in (("", context.model), ("null_", twin)):
            with forked_rng(context.seed, "neural_cleanse", device=context.data.test.x.device):
                sizes = np.stack([self._mask_sizes(model, context, run) for run in range(self.runs)])
            indices = np.stack([anomaly_index(row) for row in sizes])
            numbers = infection_metrics(indices, targets, self.threshold)
            found |= {f"neural_cleanse/{prefix}{name}": value for name, value in numbers.items()}
            found[f"neural_cleanse/{prefix}sizes"] = torch.from_numpy(sizes)
        return found

    def problems(self, data: Data, noise: float) -> list[str]:
        """Settings out of range, and too few classes to tell an outlier."""
        found = [] if len(data.classes) > 2 else [f"neural_cleanse needs 3 classes, got {len(data.classes)}"]
        return found + violations(self, "neural_cleanse: ")

    def _mask_sizes(self, model: nn.Module, context: MetricContext, run: int) -> Values:
        """(K,) the size of each class's mask, the least that was seen at the wanted success, else the last."""
        return self.invert(model, context, run).sizes()

    def invert(self, model: nn.Module, context: MetricContext, run: int) -> TriggerInversion:
        """The triggers of all classes as one run finds them."""
        pool = context.clean_images
        rng = stream(context.seed, "neural_cleanse", run)
        return invert_triggers(model, pool, len(context.data.classes), self.inversion, rng, heartbeat=context.heartbeat)

    @property
    def inversion(self) -> InversionSettings:
        """The settings of an inversion."""
        return InversionSettings(**{f.name: getattr(self, f.name) for f in fields(InversionSettings)})


def infection_metrics(indices: Values, targets: Values, threshold: float) -> dict[str, float]:
    """Metrics of the anomaly indices (R, K) of R runs: which classes they flag, and how right, given the `targets`.

    "index" is the median over runs of the largest index, "runs_flagged" the share of runs with an index above the
    threshold, "infected" 1 where that is more than half, "targets_found" the share of targets that more than half of
    the runs flag, "false_alarms" that of the other classes; AUROC and false positives of the median index follow.
    Runs without indices (nan) do not count; empty where no run has any.
    """
    indices = indices[~np.isnan(indices).any(1)]
    if not len(indices):
        return {}
    flagged = indices > threshold
    usual = flagged.mean(0) > 0.5
    hit = np.isin(np.arange(indices.shape[1]), targets)
    share = float(flagged.any(1).mean())
    numbers = {"index": float(np.median(indices.max(1))), "runs_flagged": share, "infected": float(share > 0.5)}
    if hit.any():
        numbers["targets_found"] = float(usual[hit].mean())
    if not hit.all():
        numbers["false_alarms"] = float(usual[~hit].mean())
    middle = np.median(indices, axis=0)
    return numbers | roc_metrics(middle[~hit], middle[hit])
