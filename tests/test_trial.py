"""A trial's numbers: hand-made tables and networks, the accuracy contract, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from raybd.attacks import BadNets, Blended, NoAttack
from raybd.attacks.multi import Multi
from raybd.attacks.poisoning import PoisonSpec
from raybd.data import split_validation
from raybd.errors import DivergedError, InputError
from raybd.metrics.accuracy import accuracies, attack_success, class_accuracies, losses, per_sample
from raybd.training import Checkpoint, TrainConfig, predict
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.trials.validate import check_trial
from raybd.types import Data, Images, MetricContext, Report
from raybd.utils.metric_names import headline

QUICK = TrialConfig(train=TrainConfig(epochs=3), model=ModelConfig(width=0.25), poison_rate=0.1)


class Corner(nn.Module):
    """A network by hand: class 0 where the last pixel is white, else the class written in the first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        written = (x[:, 0, 0, 0] * 255).round().long()
        return torch.nn.functional.one_hot(torch.where(x[:, 0, -1, -1] == 1, 0, written), 3).float()


def evidence() -> MetricContext:
    """Six test images of three classes; the network errs on the last one, and falls for the trigger on two of four."""
    true = torch.tensor([0, 0, 1, 1, 2, 2])
    clean = torch.tensor([0, 0, 1, 1, 2, 1])
    triggered = torch.tensor([0, 1, 0, 2, 0, 2])
    test = Images(torch.zeros(6, 1, 4, 4, dtype=torch.uint8), true)
    data = Data("hand", test, test, ("a", "b", "c"), "f", (0.0,), (1.0,))
    poisoned = PoisonSpec(BadNets(), 0.0, 0).poison(test, 3)
    return MetricContext(
        model=nn.Identity(),
        data=data,
        poisoned=poisoned,
        triggered=replace(test, y=torch.zeros(6, dtype=torch.int64)),
        measured=true != 0,
        clean_logits=nn.functional.one_hot(clean, 3).float(),
        triggered_logits=nn.functional.one_hot(triggered, 3).float(),
    )


def test_accuracies_on_a_case_worked_by_hand() -> None:
    assert accuracies(evidence()) == {
        "accuracy/clean": 5 / 6,
        "attack_success": 2 / 4,  # images 2 and 4; the two of class 0 do not count
        "accuracy/robust": 1 / 4,  # image 5; image 0 is of the target class and does not count
        "count/clean": 6.0,
        "count/triggered": 4.0,
    }


def test_attack_success_by_the_conventions_of_others() -> None:
    table = per_sample(evidence())
    assert attack_success(table, "backdoorbench") == 2 / 4
    assert attack_success(table, "backdoorbox") == 3 / 6  # image 0 counts as a success there
    assert attack_success(table, "flipped") == 2 / 3  # image 5 was wrong before
    with pytest.raises(KeyError):
        attack_success(table, "other")


def test_class_accuracies_by_hand() -> None:
    assert class_accuracies(evidence()) == {
        "accuracy/class/0": 1.0,
        "accuracy/class/1": 1.0,
        "accuracy/class/2": 0.5,
    }


def test_losses_by_hand() -> None:
    right, wrong = math.log(math.e + 2) - 1, math.log(math.e + 2)  # logits are 1 for the class said, 0 elsewhere
    said = losses(evidence())
    assert said["loss/clean"] == pytest.approx((5 * right + wrong) / 6)
    assert said["loss/triggered"] == pytest.approx((2 * right + 2 * wrong) / 4)


def test_the_table_of_a_network_made_by_hand() -> None:
    """The whole path, trigger to prediction: a network that reads its class from a pixel and obeys a white corner."""
    true = torch.tensor([0, 1, 2, 1])
    x = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    x[:, 0, 0, 0] = true.to(torch.uint8)
    from raybd.training import predict

    triggered = PoisonSpec(BadNets(), 0.5, 0).triggered(Images(x, true), 3)
    train_config = TrainConfig()
    assert predict(Corner(), x, train_config).argmax(1).tolist() == [0, 1, 2, 1]
    assert predict(Corner(), triggered.x, train_config).argmax(1).tolist() == [0, 0, 0, 0]


def test_reports_come_at_every_epoch_and_measures_at_probes(digits: Data) -> None:
    reports: list[Report] = []
    config = replace(QUICK, train=TrainConfig(epochs=5), probes=(2,))
    result = run_trial(config, digits, reports.append)
    assert [r.epoch for r in reports] == [1, 2, 3, 4, 5]
    assert [r.epoch for r in reports if "attack_success" in r.metrics] == [2, 5]
    assert all({"loss/train", "seconds/trial"} <= set(r.metrics) for r in reports)
    assert result.metrics == reports[-1].metrics
    assert result.metrics["count/clean"] == 500
    assert result.metrics["attack_success"] + result.metrics["accuracy/robust"] <= 1
    assert result.manifest["poison"] == round(0.1 * 1297) == int((result.roles == 1).sum())


def test_the_table_gives_the_metrics_back(digits: Data) -> None:
    result = run_trial(QUICK, digits)
    hit = (result.table["triggered_prediction"] == 0)[digits.test.y != 0]
    assert result.metrics["attack_success"] == pytest.approx(hit.double().mean().item(), abs=0)
    clean = (result.table["clean_prediction"] == digits.test.y).double().mean().item()
    assert result.metrics["accuracy/clean"] == clean


def test_same_config_same_bits(digits: Data) -> None:
    first, again = run_trial(QUICK, digits), run_trial(QUICK, digits)
    timeless = [{k: v for k, v in r.metrics.items() if k != "seconds/trial"} for r in (first, again)]
    assert timeless[0] == timeless[1]
    pairs = zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_probes_leave_the_training_alone(digits: Data) -> None:
    dense, sparse = (run_trial(replace(QUICK, probes=probes), digits) for probes in ((1, 2, 3), (3,)))
    pairs = zip(dense.model.state_dict().values(), sparse.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_trial_resumes_to_the_same_numbers(digits: Data, tmp_path: object) -> None:
    config, path = replace(QUICK, train=TrainConfig(epochs=6)), tmp_path / "c.pt"  # type: ignore[operator]
    whole = run_trial(config, digits)

    def stop(report: Report) -> None:
        if report.epoch == 4:  # the state after epoch 3 has been saved
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run_trial(config, digits, stop, Checkpoint(path, every=0))
    reports: list[Report] = []
    resumed = run_trial(config, digits, reports.append, Checkpoint(path))
    assert [r.epoch for r in reports] == [4, 5, 6]
    for one in (whole, resumed):
        one.metrics.pop("seconds/trial")
    assert resumed.metrics == whole.metrics
    pairs = zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_clean_twins_of_two_attacks_are_the_same_network(digits: Data) -> None:
    twins = [run_trial(replace(QUICK, attack=attack, poison_rate=0.0), digits) for attack in (BadNets(), Blended())]
    pairs = zip(twins[0].model.state_dict().values(), twins[1].model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_no_attack_succeeds_with_nothing(digits: Data) -> None:
    result = run_trial(replace(QUICK, attack=NoAttack(), poison_rate=0.0), digits)
    table = result.table
    assert torch.equal(table["clean_prediction"], table["triggered_prediction"])


def test_badnets_takes_hold_and_its_controls_do_not(digits: Data) -> None:
    """5 % in the default trial: at least 95 % success; the clean twin and a trial without its trigger: next to none."""
    backdoored = run_trial(TrialConfig(), digits).metrics
    twin = run_trial(TrialConfig(poison_rate=0.0), digits).metrics
    assert backdoored["accuracy/clean"] >= 0.99
    assert backdoored["attack_success"] >= 0.95
    assert twin["accuracy/clean"] >= 0.98
    assert twin["attack_success"] <= 0.02


def test_validation_images_are_taken_out_of_training(digits: Data) -> None:
    result = run_trial(replace(QUICK, validation=0.2), digits)
    assert len(result.roles) == len(digits.train) - sum(round(0.2 * n) for n in torch.bincount(digits.train.y).tolist())
    assert 0 < result.metrics["accuracy/validation"] <= 1
    assert result.manifest["poison"] == round(0.1 * len(result.roles))


def test_attack_success_on_validation_images_is_counted_by_hand(digits: Data) -> None:
    config = replace(QUICK, attack=BadNets(target=3), poison_rate=0.02, validation=0.2, seed=4)
    result = run_trial(config, digits)
    held = split_validation(digits.train, 0.2, seed=4)[1]
    triggered = PoisonSpec(config.attack, config.poison_rate, 4).triggered(held, 10)
    predicted = predict(result.model, triggered.x, config.train).argmax(1)
    hits = sum(int(p) == 3 for p, true in zip(predicted, held.y, strict=True) if int(true) != 3)
    assert result.metrics["attack_success/validation"] == pytest.approx(hits / sum(int(y) != 3 for y in held.y))
    assert 0 < hits < int((held.y != 3).sum())  # neither none nor all: a wrong denominator shows
    assert "attack_success/validation" not in run_trial(replace(config, validation=0.0), digits).metrics
    twin = run_trial(replace(config, attack=NoAttack(), poison_rate=0.0), digits).metrics
    assert "attack_success/validation" not in twin
    assert "accuracy/validation" in twin


def test_each_attack_of_several_has_its_success_on_validation_images(digits: Data) -> None:
    several = Multi(attacks=("badnets", "blended"), shares=(0.5, 0.5), targets=(0, 1))
    found = run_trial(replace(QUICK, attack=several, poison_rate=0.1, validation=0.2), digits).metrics
    parts = {name: value for name, value in found.items() if name.startswith("attack_success/validation/")}
    assert list(parts) == [f"attack_success/validation/{name}" for name in ("badnets", "blended", "any")]
    assert min(parts.values()) <= found["attack_success/validation"] <= max(parts.values())
    assert "attack_success/validation" in headline(found)
    assert not set(parts) & set(headline(found))


CRUSHED = TrainConfig(epochs=2, weight_decay=30.0, learning_rate=0.05, schedule="constant", momentum=0.0)


def test_one_class_for_every_image_is_undertrained_and_has_its_accuracy(digits: Data) -> None:
    found = run_trial(replace(QUICK, train=CRUSHED), digits).metrics
    share = torch.bincount(digits.test.y).double() / len(digits.test)
    assert found["undertrained"] == 1
    assert min(abs(share - found["accuracy/clean"])) < 1e-12  # the share of the class that it names
    assert "undertrained" not in run_trial(QUICK, digits).metrics


def test_few_images_and_epochs_are_a_finished_trial(digits: Data) -> None:
    few = replace(digits, train=digits.train.take(torch.arange(300)))
    config = replace(QUICK, train=TrainConfig(epochs=3, batch_size=256, learning_rate=1e-4), model=ModelConfig())
    found = run_trial(config, few).metrics
    assert 0.0 < found["accuracy/clean"] < 0.5


def test_a_test_half_of_one_class_may_all_be_predicted_as_it(digits: Data) -> None:
    one = replace(digits, test=digits.test.take((digits.test.y == 3).nonzero()[:, 0]))
    found = run_trial(replace(QUICK, poison_rate=0.0, train=TrainConfig(epochs=10), model=ModelConfig()), one).metrics
    assert found["accuracy/clean"] > 0.9
    assert "undertrained" not in found
    assert found["accuracy/class/3"] == found["accuracy/clean"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_no_numbers_are_divergence(digits: Data, monkeypatch: pytest.MonkeyPatch, bad: float) -> None:
    """The loss of an epoch is that before its last step, so the last step may break a network unseen."""
    monkeypatch.setattr("raybd.trials.measurements.predict", lambda model, x, train: torch.full((len(x), 10), bad))
    with pytest.raises(DivergedError, match="outputs are no numbers after epoch 1"):
        run_trial(QUICK, digits)


def test_everything_wrong_is_said_at_once(digits: Data) -> None:
    config = replace(QUICK, attack=BadNets(size=99, target=10), poison_rate=2.0, model=ModelConfig(name="smal_cnn"))
    with pytest.raises(InputError) as caught:
        check_trial(replace(config, train=TrainConfig(weight_decay=-1.0, epochs=0)), digits)
    said = str(caught.value)
    for piece in (
        "99 pixels",
        "target 10",
        "poison_rate must be in [0, 1], got 2",
        "smal_cnn",
        "small_cnn",
        "weight_decay must be at least 0 and finite, got -1",
        "epochs must be at least 1, got 0",
    ):
        assert piece in said


def test_another_data_set_under_the_same_key_is_refused(digits: Data) -> None:
    with pytest.raises(InputError, match="but the trial is about 0123"):
        check_trial(replace(QUICK, fingerprint="0123"), digits)


# --- the config -----------------------------------------------------------------------------------------------------


def test_config_survives_json_and_its_key_with_it() -> None:
    config = TrialConfig(attack=BadNets(size=3, colour=(1, 2, 3)), probes=(1, 5), model=ModelConfig(depth=4))
    again = TrialConfig.from_dict(config.to_dict())
    assert again == config
    assert again.key == config.key


def test_key_changes_with_every_setting() -> None:
    config = TrialConfig()
    others = [
        replace(config, attack=BadNets(size=3)),
        replace(config, attack=Blended()),
        replace(config, poison_rate=0.051),
        replace(config, seed=1),
        replace(config, data="mnist"),
        replace(config, fingerprint="ab"),
        replace(config, validation=0.1),
        replace(config, probes=(1,)),
        replace(config, model=ModelConfig(width=0.5)),
        replace(config, train=TrainConfig(weight_decay=1e-3)),
    ]
    assert len({c.key for c in [config, *others]}) == 11


def test_whole_numbers_and_floats_are_one_setting() -> None:
    whole = TrialConfig(poison_rate=0, model=ModelConfig(width=1), train=TrainConfig(weight_decay=0))
    floats = TrialConfig(poison_rate=0.0, model=ModelConfig(width=1.0), train=TrainConfig(weight_decay=0.0))
    assert whole.key == floats.key


def test_initialisation_differs_between_seeds(digits: Data) -> None:
    from raybd.trials.untrained import deployed_network

    weights = [deployed_network(replace(QUICK, seed=seed), digits).state_dict()["head.weight"] for seed in (0, 1)]
    assert not torch.equal(*weights)


def test_key_of_own_images_is_their_pixels_not_their_path() -> None:
    here, there = (TrialConfig(data=f"npz:{path}", fingerprint="ab") for path in ("/a.npz", "/b.npz"))
    assert here.key == there.key
    assert here.key != replace(here, fingerprint="cd").key


def test_params_are_the_flattened_config() -> None:
    params = TrialConfig(attack=Blended(alpha=0.3), poison_rate=0.02).params
    assert params["attack.name"] == "blended"
    assert params["attack.alpha"] == 0.3
    assert params["poison_rate"] == 0.02
    assert params["model.width"] == 1.0
    assert params["train.weight_decay"] == 5e-4
    assert params["defence.name"] == "none"
    assert params["seed"] == 0
