"""Neural Cleanse as a repair: triggers are inverted, and the network unlearns those that stand out.

Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao, "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural
Networks", IEEE S&P 2019, section VI-C: fine-tuning with a fifth of the images stamped and truly labelled.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from raybd.defences.base import TrainingContext
from raybd.defences.post import CleanRepair, Numbers, descend
from raybd.models.trigger_inversion import InversionSettings, anomaly_index, invert_triggers
from raybd.seeds import stream
from raybd.types import Images
from raybd.utils.constraints import Positive, Share

Triggers = tuple[Tensor, Tensor]  # masks (k, 1, H, W) and patterns (k, C, H, W)


@dataclass(frozen=True, kw_only=True)
class NeuralCleanseRepair(CleanRepair):
    """Classes whose mask is an outlier are flagged; where none is, the network stays as it is.

    defence/flagged_classes: how many are; defence/index: the largest anomaly index.
    """

    inversion_steps: Annotated[int, Ge(1)] = 200
    threshold: Positive = 2.0  # of the anomaly index
    stamped: Share = 0.2  # of each batch
    steps: Annotated[int, Ge(1)] = 500
    learning_rate: Positive = 0.01

    def repair(self, model: nn.Module, clean: Images, context: TrainingContext) -> Numbers:
        """Invert, and unlearn what stands out."""
        model.eval()
        settings = InversionSettings(steps=self.inversion_steps)
        rng = stream(context.seed, "neural_cleanse", "inversion")
        search = invert_triggers(model, clean, context.classes, settings, rng, context.heartbeat)
        indices = np.nan_to_num(anomaly_index(search.sizes()))
        flagged = torch.from_numpy(indices > self.threshold)
        if flagged.any():
            masks, patterns = (part[flagged.to(part.device)] for part in search.triggers())
            self._unlearn(model, clean, context, (masks, patterns))
        return {"defence/flagged_classes": float(flagged.sum()), "defence/index": float(indices.max())}

    def _unlearn(self, model: nn.Module, clean: Images, context: TrainingContext, triggers: Triggers) -> None:
        """Fine-tune with the first `stamped` images of each batch, which is shuffled, under a trigger each."""
        rng = stream(context.seed, "neural_cleanse", "unlearning")

        def backward(x: Tensor, y: Tensor) -> None:
            F.cross_entropy(model(stamp_some(x, triggers, self.stamped, rng)), y).backward()

        descend(model, clean, context, self.steps, self.learning_rate, backward)


def stamp_some(x: Tensor, triggers: Triggers, share: float, rng: torch.Generator) -> Tensor:
    """The images `x` (B, C, H, W), the first `share` of them with a trigger each that `rng` draws."""
    count, (masks, patterns) = round(share * len(x)), triggers
    which = torch.randint(len(masks), (count,), generator=rng).to(x.device)
    mask, pattern = masks[which], patterns[which]
    return torch.cat([(1 - mask) * x[:count] + mask * pattern, x[count:]])
