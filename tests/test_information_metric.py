"""The metrics on trained networks: groups, controls, reproducibility, data processing, and their nulls over seeds."""

import copy
import math
from dataclasses import dataclass, replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from raybd.attacks import BadNets
from raybd.attacks.poisoning import PoisonSpec
from raybd.metrics.information.gaussian_channel import channel_estimates, whitened_channel
from raybd.metrics.information.groups import choose_groups
from raybd.metrics.information.noisy_features import noisy_features
from raybd.metrics.information.plug_in_estimator import plug_in_estimates, plug_in_scores, whitened_axes
from raybd.metrics.information.trained_critics import feature_pairs
from raybd.metrics.information.trigger_pairs import trigger_pairs
from raybd.metrics.mutual_information import MutualInformation
from raybd.metrics.stealthiness import Stealthiness
from raybd.models import Classifier, build_model
from raybd.seeds import forked_rng
from raybd.training import TrainConfig, fit
from raybd.types import CLEAN, COVER, POISON, Data, Images, MetricContext, Poisoned
from raybd.utils.metric_names import HEADLINE

QUICK = MutualInformation(samples=48, passes=8)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trained(data: Data, images: Images, seed: int, epochs: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    model = build_model("small_cnn", data.train.shape, 10, data.mean, data.std, noise=0.4)
    for _ in fit(model, images, TrainConfig(epochs=epochs), seed):
        pass
    return model.eval()


def evidence(data: Data, poisoned: Poisoned, model: nn.Module, twin: nn.Module, seed: int = 0) -> MetricContext:
    none = torch.zeros(0)
    return MetricContext(model, data, poisoned, data.test, none, none, none, seed=seed, epoch=5, last=True, twin=twin)


@dataclass
class Trial:
    data: Data
    poisoned: Poisoned
    context: MetricContext
    found: dict[str, float | Tensor]


@pytest.fixture(scope="module")
def trial(digits: Data) -> Trial:
    torch.set_num_threads(1)
    poisoned = PoisonSpec(BadNets(), 0.1, 0).poison(digits.train, 10)
    networks = [trained(digits, images, 0) for images in (poisoned.images, digits.train)]
    context = evidence(digits, poisoned, *networks)
    return Trial(digits, poisoned, context, QUICK.measure(context))


def number(value: float | Tensor) -> float:
    assert isinstance(value, float)
    return value


def test_every_group_has_its_estimates(trial: Trial) -> None:
    found = trial.found
    groups = ["backdoor", "target_clean", "target", "target_mix", "random"] + [f"clean_{c}" for c in (1, 3, 5, 7)]
    ceiling = math.log(48)
    for name in (f"mi/{network}{kind}/{g}" for network in ("", "control/") for kind in ("xt", "ty") for g in groups):
        low, high = (number(found[f"{name}/{bound}"]) for bound in ("lower", "upper"))
        assert found[f"{name}/ceiling"] == pytest.approx(ceiling)
        assert found[f"{name}/saturated"] == float(low > 0.95 * ceiling)
        if "/xt/" in name:
            assert low == number(found[name]) <= high == pytest.approx(ceiling)
            assert number(found[f"{name}/error"]) > 0
        else:
            errors = [number(found[f"{name}/{bound}/error"]) for bound in ("lower", "upper")]
            assert min(errors) > 0
            assert low - errors[0] <= high + errors[1]
            assert (name in found) == (f"{name}/error" in found) == (high - low <= sum(errors))
    assert "mi/ty/backdoor" not in found  # its bounds are nats apart
    assert found["mi/samples"] == 48
    assert found["mi/count/backdoor"] == 130
    assert 0 < number(found["mi/noise_ratio"]) < 1
    assert 0 < number(found["mi/st/backdoor"]) <= number(found["mi/st/backdoor/ceiling"]) <= math.log(9)
    assert all(math.isfinite(value) for value in found.values() if isinstance(value, float))


def test_badnets_keeps_more_than_a_clean_class_for_it_mixes_classes(trial: Trial) -> None:
    """The specification's finding on digits: the excess over clean classes is there, and so is its explanation."""
    found = trial.found
    clean = sum(number(found[f"mi/xt/clean_{c}"]) for c in (1, 3, 5, 7)) / 4
    assert number(found["mi/xt/backdoor"]) > clean + 0.2
    assert number(found["mi/control/xt/backdoor"]) > clean + 0.2
    assert number(found["mi/st/backdoor"]) > 1


def test_permuted_labels_are_a_null_of_every_information_on_labels(trial: Trial) -> None:
    """The share of the critic said 1.8 of 2.15 of permuted labels: it told the image, and so any label."""
    found = trial.found | Stealthiness().measure(trial.context)
    values = ["mi/st/backdoor", "mi/st/random", "mi/control/st/backdoor", "mi/control/st/random"]
    for name in [*values, "stealth/decodability", "stealth/semantics"]:
        assert abs(number(found[f"{name}/permuted"])) < 0.05 < number(found[name])


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1])
def test_fresh_images_are_measured_at_every_rate(trial: Trial, rate: float) -> None:
    """Also where too few images are poisoned, and none; the classes are those without the trigger."""
    spec = PoisonSpec(BadNets(), rate, 0)
    poisoned = spec.poison(trial.data.train, 10)
    context = replace(trial.context, poisoned=poisoned, trigger=spec)
    if not rate:
        context = replace(context, model=trial.context.twin)
    found = QUICK.measure(context)
    assert ("mi/xt/backdoor" in found) == (rate == 0.1)
    exact = [name for name in HEADLINE["mutual_information"] if not name.startswith("mi/signature")]
    for name in exact + [f"{name}_plain" for name in exact if name.endswith("fresh_train")]:
        assert math.isfinite(number(found[name]))
        assert (name.replace("mi/", "mi/control/") in found) == (rate > 0)
    true = trigger_pairs(context, QUICK.samples)["fresh_train"].true
    assert (true != 0).all()  # the target class
    entropy = -sum(p * math.log(p) for p in (torch.bincount(true).double() / 48).tolist() if p)
    assert found["mi/st/fresh_train/ceiling"] == pytest.approx(entropy)
    assert "mi/st/fresh_train/saturated" not in found  # all of H(S) is no bound of more
    assert abs(number(found["mi/st/fresh_train/permuted"])) < 0.05 < 1 < number(found["mi/st/fresh_train_plain"])


def test_a_group_of_one_class_has_no_information_on_classes(trial: Trial) -> None:
    """Poison that keeps its labels is of the target class alone: absent, not 0 of 0."""
    context = replace(trial.context, poisoned=replace(trial.poisoned, true=trial.poisoned.images.y))
    found = QUICK.measure(context) | Stealthiness().measure(context)
    assert not any(name.startswith(("mi/st/backdoor", "mi/control/st/backdoor")) for name in found)
    assert not any(name.startswith("stealth/semantics") for name in found)
    assert "mi/st/random" in found
    assert "stealth/decodability" in found


def test_measuring_is_reproducible_and_changes_nothing(trial: Trial) -> None:
    state = torch.random.get_rng_state()
    weights = copy.deepcopy(trial.context.model.state_dict())
    again = QUICK.measure(trial.context)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in trial.context.model.state_dict().items())
    for name, value in trial.found.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(again[name]))
    other = QUICK.measure(replace(trial.context, epoch=6))
    assert other["mi/xt/backdoor"] != again["mi/xt/backdoor"]


def test_the_map_is_of_the_groups(trial: Trial) -> None:
    drawn = trial.found["mi/map"]
    assert isinstance(drawn, Tensor)
    assert drawn.shape == (6 * 48, 4)
    assert drawn[:, 3].sum() == 48
    assert set(drawn[drawn[:, 3] == 1, 2].tolist()) == {0.0}


def test_groups_are_what_they_are_called(trial: Trial) -> None:
    poisoned = trial.poisoned
    groups = choose_groups(poisoned, 48, 4, 0)
    roles, y = poisoned.roles[groups.index], poisoned.images.y[groups.index]
    kinds = {name: (roles[rows] == POISON, y[rows]) for name, rows in groups.rows.items()}
    assert groups.target == 0
    assert all(len(rows) == 48 for rows in groups.rows.values())
    for name, share in (("backdoor", 1.0), ("target_clean", 0.0), ("target_mix", 0.5), ("target", 130 / 258)):
        poison, labels = kinds[name]
        assert (labels == 0).all()
        assert float(poison.float().mean()) == pytest.approx(share, abs=0.5 / 48)
    assert (kinds["clean_3"][1] == 3).all()
    assert torch.bincount(kinds["random"][1]).tolist() == [0, 12, 0, 12, 0, 12, 0, 12]
    small = choose_groups(poisoned, 40, 4, 0)
    for name in ("backdoor", "clean_5"):
        assert set(small.index[small.rows[name]].tolist()) <= set(groups.index[groups.rows[name]].tolist())


def test_covers_belong_to_no_clean_group(trial: Trial) -> None:
    roles = trial.poisoned.roles.clone()
    roles[(trial.poisoned.images.y == 3).nonzero().squeeze(1)[:40]] = COVER
    groups = choose_groups(replace(trial.poisoned, roles=roles), 48, 4, 0)
    assert (roles[groups.index[groups.rows["clean_3"]]] == CLEAN).all()
    assert groups.counts["clean_3"] == choose_groups(trial.poisoned, 48, 4, 0).counts["clean_3"] - 40


def test_the_control_is_the_twin_on_the_same_images(trial: Trial) -> None:
    assert trial.context.twin is not None
    found = QUICK.measure(replace(trial.context, model=trial.context.twin, twin=None))
    for name in ("xt/backdoor", "ty/backdoor/lower", "ty/backdoor/upper", "st/backdoor", "xt/clean_3"):
        assert trial.found[f"mi/control/{name}"] == found[f"mi/{name}"] != trial.found[f"mi/{name}"]


def test_a_group_too_small_is_counted_and_not_measured(digits: Data, trial: Trial) -> None:
    few = PoisonSpec(BadNets(), 0.01, 0).poison(digits.train, 10)
    found = QUICK.measure(replace(trial.context, poisoned=few))
    assert found["mi/count/backdoor"] == 13
    assert not any("backdoor/" in name or name.endswith("/backdoor") for name in found if "count" not in name)
    assert "mi/xt/target_clean" in found
    assert Stealthiness().measure(replace(trial.context, poisoned=few)) == {
        "stealth/count/backdoor": 13.0,
        "stealth/count/target_clean": 128.0,
    }


def test_without_poison_there_are_clean_classes_only(digits: Data, trial: Trial) -> None:
    clean = PoisonSpec(BadNets(), 0.0, 0).poison(digits.train, 10)
    model = trial.context.model
    found = QUICK.measure(replace(trial.context, poisoned=clean, twin=model))
    assert {name.split("/")[2] for name in found if name.startswith("mi/xt/")} == {
        "clean_0",
        "clean_2",
        "clean_4",
        "clean_6",
        "random",
    }
    assert not any("control" in name for name in found)


def test_only_at_its_epochs(trial: Trial) -> None:
    seldom = replace(QUICK, epochs=(1, 5))
    assert seldom.measure(replace(trial.context, epoch=4, last=False)) == {}
    assert "mi/xt/backdoor" in seldom.measure(replace(trial.context, epoch=5, last=False))
    assert "mi/xt/backdoor" in seldom.measure(replace(trial.context, epoch=9, last=True))


def test_refusals(digits: Data) -> None:
    (problem,) = MutualInformation().problems(digits, 0.0)
    assert "I(X;T) is infinite" in problem
    assert MutualInformation().problems(digits, 0.4) == []
    found = MutualInformation(samples=31, passes=1, classes=0).problems(digits, 0.4)
    assert [line.partition(": ")[2] for line in found] == [
        "samples must be at least 32, got 31",
        "passes must be at least 2, got 1",
        "classes must be at least 1, got 0",
    ]


@torch.no_grad()
def test_data_processing(trial: Trial) -> None:
    """I(X;Y_pred) <= min(I(X;T), I(T;Y_pred)) in every group: lower bounds on the left, upper ones on the right."""
    model, groups = cast("Classifier", trial.context.model), choose_groups(trial.poisoned, 48, 4, 0)
    with forked_rng(0, "test", device=CPU):
        t = noisy_features(model, trial.poisoned.images.x[groups.index], 36)
        y = model.classify(t)
    axes = whitened_axes(y[:, :32].unflatten(0, (-1, 48)))
    z = (y @ axes.T)[groups.table]
    left = [value.lower for value in plug_in_estimates(plug_in_scores(z[:, :, :32], z[:, :, 32:]))]
    sent, received = (part[groups.table] for part in whitened_channel(t[:, 32:], y[:, 32:], model.head, model.noise))
    right = [value.upper for value in channel_estimates(sent, received)]
    image = [number(trial.found[f"mi/xt/{group}/upper"]) for group in groups.rows]
    assert len(left) == 9
    assert all(a <= min(b, c) for a, b, c in zip(left, right, image, strict=True))
    assert max(left) > 1


def test_stealthiness_of_a_patch(trial: Trial) -> None:
    found = Stealthiness().measure(trial.context)
    ceiling = -sum(p * math.log(p) for p in (130 / 258, 128 / 258))
    assert found["stealth/decodability/ceiling"] == pytest.approx(ceiling)
    assert number(found["stealth/decodability"]) > 0.3
    null, error = (number(found[f"stealth/decodability/null{end}"]) for end in ("", "/error"))
    assert 0 <= null <= max(2 * error, 0.01)
    assert 1 < number(found["stealth/semantics"]) <= number(found["stealth/semantics/ceiling"]) <= math.log(9)
    for part in ("apart", "within", "target", "clean"):
        assert -1 <= number(found[f"stealth/silhouette/{part}"]) <= 1
        assert f"stealth/silhouette/{part}/null" in found


def test_nulls_of_classes_and_silhouettes_are_shown_the_trigger(trial: Trial) -> None:
    """A trigger that hides the class from any network is no backdoor's doing: no null looks at images without it."""
    blank = replace(trial.data, train=Images(torch.zeros_like(trial.data.train.x), trial.data.train.y))
    metric = Stealthiness(samples=100)
    found, blind = (metric.measure(replace(trial.context, data=data)) for data in (trial.data, blank))
    names = [n for n in found if n.startswith(("stealth/semantics/null", "stealth/silhouette")) and n.endswith("null")]
    assert len(names) == 5
    assert {name: found[name] for name in names} == {name: blind[name] for name in names}
    assert number(found["stealth/semantics/null"]) > 0.5


def test_a_random_flag_is_stealthy(digits: Data, trial: Trial) -> None:
    """A random part of the target class called poisoned: decodability 0 within its error."""
    roles = torch.zeros_like(trial.poisoned.roles)
    target = (digits.train.y == 0).nonzero().squeeze(1)
    roles[target[::3]] = POISON
    clean = replace(PoisonSpec(BadNets(), 0.0, 0).poison(digits.train, 10), roles=roles)
    found = Stealthiness().measure(replace(trial.context, poisoned=clean, model=trial.context.twin))
    value, error = (number(found[f"stealth/decodability{end}"]) for end in ("", "/error"))
    assert 0 <= value <= max(2 * error, 0.01)


@torch.no_grad()
def test_pairs_to_train_on_and_fresh_ones(trial: Trial) -> None:
    model, table = cast("Classifier", trial.context.model), torch.tensor([[0, 2], [1, 3]])
    x = trial.data.train.x[:4]
    t = noisy_features(model, x, 5)
    with forked_rng(0, "test", device=CPU):
        train, fresh = feature_pairs(model, x, t, table, 3)
    with forked_rng(0, "test", device=CPU):
        y = model.classify(t)
    for found, part in ((train, slice(0, 3)), (fresh, slice(3, 5))):
        assert torch.equal(found["xt"].u, t[table][:, :, part])
        assert torch.equal(found["xt"].v, x[table].flatten(2)[:, :, None] / 255)
        assert torch.equal(found["ty"].u, y[table][:, :, part])
        assert torch.equal(found["ty"].v, t[table][:, :, part])
