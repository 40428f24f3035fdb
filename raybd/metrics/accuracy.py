"""Accuracy, attack success and robust accuracy, each with its denominator named, from one table of predictions."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raybd.metrics.base import Metric
from raybd.types import MetricContext
from raybd.utils.metric_names import ATTACK_SUCCESS, UNDERTRAINED, VALIDATION_ACCURACY, VALIDATION_SUCCESS


@dataclass(frozen=True, kw_only=True)
class Accuracy(Metric):
    """Accuracies and losses: what every trial is measured by."""

    def measure(self, context: MetricContext) -> dict[str, float | Tensor]:
        """Clean accuracy, attack success, robust accuracy, their counts, each class's accuracy, the losses, a flag."""
        parts = (accuracies, class_accuracies, losses, validation_rates, undertrained)
        return {name: value for part in parts for name, value in part(context).items()}


def accuracy(prediction: Tensor, wanted: Tensor, among: Tensor | None = None) -> float:
    """Share of `prediction` (N,) equal to `wanted` (N,), among the images of the mask `among` (N,); nan if none."""
    hit = prediction == wanted
    return float((hit if among is None else hit[among]).double().mean())


def attack_success(table: dict[str, Tensor], convention: str = "raybd") -> float:
    """Share of triggered test images that are predicted as the attacker wants.

    `table` holds (N,) tensors: true, wanted, measured, clean_prediction, triggered_prediction. Conventions:
    raybd, backdoorbench, vibe: without the images of the target class; backdoorbox, mithridates: all images, those
    of the target class too, which flatters the attack by their share; flipped: only images that the same network
    gets right without the trigger.
    """
    among = {
        "raybd": table["measured"],
        "backdoorbench": table["measured"],
        "vibe": table["measured"],
        "backdoorbox": torch.ones_like(table["measured"]),
        "mithridates": torch.ones_like(table["measured"]),
        "flipped": table["measured"] & (table["clean_prediction"] == table["true"]),
    }[convention]
    return accuracy(table["triggered_prediction"], table["wanted"], among)


def per_sample(context: MetricContext) -> dict[str, Tensor]:
    """The table that every accuracy is read from: one row a test image (and member of the attack, if it has some)."""
    members = len(context.members)
    return {
        "true": context.data.test.y.repeat(members),
        "wanted": context.triggered.y,
        "measured": context.measured,
        "clean_prediction": context.clean_logits.argmax(1).repeat(members),
        "triggered_prediction": context.triggered_logits.argmax(1),
    }


def accuracies(context: MetricContext) -> dict[str, float]:
    """Clean accuracy, attack success rate and robust accuracy, with the counts they are shares of."""
    table = per_sample(context)
    return {
        "accuracy/clean": accuracy(context.clean_logits.argmax(1), context.data.test.y),
        "attack_success": attack_success(table),
        "accuracy/robust": accuracy(table["triggered_prediction"], table["true"], table["measured"]),
        "count/clean": float(len(context.data.test)),
        "count/triggered": float(table["measured"].sum()),
    } | _success_by_member(context.members, table)


def _success_by_member(
    members: tuple[str, ...], table: dict[str, Tensor], prefix: str = ATTACK_SUCCESS
) -> dict[str, float]:
    if len(members) == 1:
        return {}
    parts = [
        dict(zip(table, columns, strict=True))
        for columns in zip(*(c.chunk(len(members)) for c in table.values()), strict=True)
    ]
    found = {f"{prefix}/{name}": attack_success(part) for name, part in zip(members, parts, strict=True)}
    return found | {f"{prefix}/any": _success_of_any(parts)}


def _success_of_any(parts: list[dict[str, Tensor]]) -> float:
    """Share of the test images that some member counts for which some member that counts it succeeds."""
    counted = torch.stack([part["measured"] for part in parts])
    hit = counted & torch.stack([part["triggered_prediction"] == part["wanted"] for part in parts])
    return float(hit.any(0)[counted.any(0)].double().mean())


def class_accuracies(context: MetricContext) -> dict[str, float]:
    """Clean accuracy of each class that has test images."""
    true, hit = context.data.test.y, context.clean_logits.argmax(1) == context.data.test.y
    classes = len(context.data.classes)
    count = torch.bincount(true, minlength=classes)
    share = torch.bincount(true[hit], minlength=classes) / count
    return {f"accuracy/class/{c}": s for c, (s, n) in enumerate(zip(share.tolist(), count.tolist(), strict=True)) if n}


def losses(context: MetricContext) -> dict[str, float]:
    """Cross-entropy in nats: on clean test images, and of triggered ones towards what the attacker wants."""
    among = context.measured
    return {
        "loss/clean": float(F.cross_entropy(context.clean_logits, context.data.test.y)),
        "loss/triggered": float(F.cross_entropy(context.triggered_logits[among], context.triggered.y[among])),
    }


def undertrained(context: MetricContext) -> dict[str, float]:
    """1 where one class is predicted for all clean test images though they are of several classes; else absent."""
    predicted, true = context.clean_logits.argmax(1), context.data.test.y
    return {UNDERTRAINED: 1.0} if predicted.unique().numel() == 1 < true.unique().numel() else {}


def validation_rates(context: MetricContext) -> dict[str, float]:
    """Clean accuracy and attack success on the part of the training set that was set aside, where there is one.

    They are for choosing settings, so that the test images are left for the comparison of what was chosen.
    """
    if context.data.validation is None or context.validation_logits is None:
        return {}
    prediction = context.validation_logits.argmax(1)
    found = {VALIDATION_ACCURACY: accuracy(prediction, context.data.validation.y)}
    triggered, outputs, trigger = context.triggered_validation, context.triggered_validation_logits, context.trigger
    if triggered is None or outputs is None or trigger is None:
        return found
    true, members = context.data.validation.y, len(context.members)
    table = {
        "true": true.repeat(members),
        "wanted": triggered.y,
        "measured": trigger.measured(true),
        "clean_prediction": prediction.repeat(members),
        "triggered_prediction": outputs.argmax(1),
    }
    found[VALIDATION_SUCCESS] = attack_success(table)
    return found | _success_by_member(context.members, table, VALIDATION_SUCCESS)
