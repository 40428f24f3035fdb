"""The ends of every comparison, and what the truth says of a defence's findings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from raybd.attacks import BadNets
from raybd.attacks.poisoning import PoisonSpec
from raybd.defences import DEFENCES, NoDefence, Oracle, TrainingContext
from raybd.defences.abl import Abl
from raybd.defences.comparison import compare_with_truth
from raybd.models import build_model
from raybd.training import TrainConfig, fit
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.types import COVER, POISON, Data, Images
from raybd.utils.figures import draw_suspects

QUICK = TrialConfig(train=TrainConfig(epochs=4), model=ModelConfig(width=0.5), poison_rate=0.1, probes=(4,))


def context(digits: Data, **changes: object) -> TrainingContext:
    torch.manual_seed(0)
    model = build_model("small_cnn", digits.train.shape, 10, digits.mean, digits.std, width=0.25)
    return replace(
        TrainingContext(model=model, images=digits.train, classes=10, train_config=TrainConfig(epochs=2), seed=0),
        **changes,
    )


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict().values())


def test_the_oracle_trains_as_if_the_poison_had_never_come(digits: Data) -> None:
    poisoned = PoisonSpec(BadNets(), 0.2, 0).poison(digits.train, 10)
    known = context(digits, images=poisoned.images, roles=poisoned.roles)
    list(Oracle().train(known))
    rest = context(digits, images=poisoned.images.take(poisoned.roles != POISON))
    list(fit(rest.model, rest.images, rest.train_config, rest.seed))
    assert all(torch.equal(a, b) for a, b in zip(weights(known.model), weights(rest.model), strict=True))


def test_the_oracle_keeps_covers_and_finds_all_of_the_poison(digits: Data) -> None:
    roles = torch.zeros(len(digits.train), dtype=torch.uint8)
    roles[:100], roles[100:300] = POISON, COVER
    found = context(digits, roles=roles)
    list(Oracle().train(found))
    numbers = compare_with_truth(found.findings, roles)
    assert numbers["precision"] == numbers["recall"] == numbers["auroc"] == 1
    assert numbers["false_alarms"] == 0
    assert numbers["flagged"] == pytest.approx(100 / len(digits.train))


def test_without_a_defence_and_without_poison_both_ends_meet(digits: Data) -> None:
    plain, known = context(digits), context(digits, roles=torch.zeros(len(digits.train), dtype=torch.uint8))
    list(NoDefence().train(plain))
    list(Oracle().train(known))
    assert all(torch.equal(a, b) for a, b in zip(weights(plain.model), weights(known.model), strict=True))


def test_only_who_may_know_the_truth_is_told(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}

    class Curious(NoDefence):
        def train(self, context: TrainingContext):  # type: ignore[no-untyped-def]
            told["roles"], told["trusted"] = context.roles, context.trusted
            return super().train(context)

    class Careful(Curious):
        access = "clean images"

    monkeypatch.setitem(DEFENCES, "curious", Curious)
    monkeypatch.setitem(DEFENCES, "careful", Careful)
    run_trial(replace(QUICK, defence=Curious(), validation=0.1), digits)
    assert told == {"roles": None, "trusted": None}
    run_trial(replace(QUICK, defence=Careful(), validation=0.1), digits)
    assert told["roles"] is None
    assert len(told["trusted"]) == round(0.1 * len(digits.train))
    with pytest.raises(ValueError, match="must be told"):
        list(Oracle().train(context(digits)))


def test_the_oracle_in_a_trial(digits: Data) -> None:
    defended, plain = run_trial(replace(QUICK, defence=Oracle()), digits), run_trial(QUICK, digits)
    assert plain.metrics["attack_success"] > 0.5 > 0.1 > defended.metrics["attack_success"]
    assert defended.metrics["defence/recall"] == 1
    assert defended.suspects is not None
    assert (defended.suspects.roles == POISON).all()
    assert plain.suspects is None
    assert not any(name.startswith("defence/") for name in plain.metrics)


def test_numbers_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    roles = rng.choice([0, POISON, COVER], 500, p=[0.7, 0.2, 0.1]).astype(np.uint8)
    score = rng.normal(size=500).round(1) + (roles == POISON)  # with ties
    flagged = score > 1
    numbers = compare_with_truth(
        {"suspicion": torch.tensor(score), "flagged": torch.tensor(flagged)}, torch.tensor(roles)
    )
    poison = roles == POISON
    assert numbers["precision"] == pytest.approx(precision_score(poison, flagged), abs=1e-12)
    assert numbers["recall"] == pytest.approx(recall_score(poison, flagged), abs=1e-12)
    assert numbers["false_alarms"] == pytest.approx(1 - recall_score(~poison, ~flagged), abs=1e-12)
    assert numbers["auroc"] == pytest.approx(roc_auc_score(poison, score), abs=1e-12)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    shuffled = {"suspicion": torch.tensor(score)[order], "flagged": torch.tensor(flagged)[order]}
    assert compare_with_truth(shuffled, torch.tensor(roles)[order]) == pytest.approx(numbers)


def test_what_is_not_defined_is_not_said() -> None:
    nothing = torch.zeros(4, dtype=torch.bool)
    some = torch.tensor([True, False, False, False])
    clean = torch.zeros(4, dtype=torch.uint8)
    assert compare_with_truth({}, clean) == {}
    assert compare_with_truth({"flagged": some, "suspicion": torch.arange(4.0)}, clean) == {"flagged": 0.25}
    assert "precision" not in compare_with_truth({"flagged": nothing}, torch.tensor([POISON, 0, 0, 0]))


def test_a_trial_that_planted_nothing_knows_no_precision(digits: Data) -> None:
    """The user's own data may be poisoned: "precision 0" of their flags would be a truth that nobody knows."""
    found = run_trial(replace(QUICK, poison_rate=0.0, defence=Abl()), digits).metrics
    assert found["defence/flagged"] > 0
    assert not {"defence/precision", "defence/recall", "defence/false_alarms", "defence/auroc"} & set(found)


def test_a_picture_of_suspects_frames_the_poison(tmp_path: Path) -> None:
    images = Images(torch.zeros(14, 1, 8, 8, dtype=torch.uint8), torch.arange(14) % 10)
    draw_suspects(images, ["bird"] * 14, [1.0] * 14, [place == 13 for place in range(14)], tmp_path / "suspects.png")
    picture = np.asarray(Image.open(tmp_path / "suspects.png"))
    red = (picture == (0xB2, 0x18, 0x2B)).all(2)
    assert red.any()
    assert np.argwhere(red)[:, 0].min() > 100  # in the second row: the fourteenth image
