"""The signature: by hand, on networks with and without a backdoor, and the groups that it is measured on."""

import copy
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from raybd.attacks import ATTACKS, Blended, NoAttack
from raybd.attacks.badnets import BadNets
from raybd.attacks.base import Attack
from raybd.attacks.multi import Multi
from raybd.attacks.poisoning import PoisonSpec
from raybd.metrics.information.resolution import GRIDS, Resolved
from raybd.metrics.information.resolution_figures import resolution_curves
from raybd.metrics.information.resolved_groups import ResolvedNetwork, resolved_metrics
from raybd.metrics.information.signature import Difference, Signature, difference, direction, signature
from raybd.metrics.information.trigger_pairs import TriggerPair, scattered, trigger_pairs
from raybd.models import build_model
from raybd.training import TrainConfig, fit
from raybd.types import CLEAN, COVER, Data, Images, MetricContext
from tests.conftest import made_images

N, PASSES = 64, 32


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trained(data: Data, images: Images, seed: int, epochs: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    model = build_model("small_cnn", data.train.shape, len(data.classes), data.mean, data.std, noise=0.4)
    for _ in fit(model, images, TrainConfig(epochs=epochs), seed):
        pass
    return model.eval()


def context_of(
    data: Data, attack: Attack, rate: float, model: nn.Module, twin: nn.Module | None, seed: int = 0
) -> MetricContext:
    spec, none = PoisonSpec(attack, rate, seed).on(data.train, len(data.classes)), torch.zeros(0)
    poisoned = spec.poison(data.train, len(data.classes))
    return MetricContext(
        model, data, poisoned, data.test, none, none, none, seed=seed, epoch=6, twin=twin, trigger=spec
    )


def measured(context: MetricContext) -> dict[str, float]:
    return resolved_metrics(context, trigger_pairs(context, N), PASSES, {})


@dataclass
class Trial:
    twin: nn.Module
    model: nn.Module
    context: MetricContext
    found: dict[str, float]


@pytest.fixture(scope="module")
def trial(digits: Data) -> Trial:
    torch.set_num_threads(1)
    twin = trained(digits, digits.train, 0)
    model = trained(digits, PoisonSpec(BadNets(), 0.1, 0).poison(digits.train, 10).images, 0)
    context = context_of(digits, BadNets(), 0.1, model, twin)
    return Trial(twin, model, context, measured(context))


# by hand


def curves(triggered: list[float], plain: list[float], width: float = 0.5) -> dict[str, Resolved]:
    def made(values: list[float]) -> Resolved:
        low = torch.tensor([values, values]).double()
        return Resolved((2.0, 4.0), low, low + torch.tensor([[9.0], [width]]))

    return {"t": made(triggered), "p": made(plain)}


def test_signature_by_hand() -> None:
    """D of the three images 1, 0, -1 here and 0, 0, 3 there: 1, 0, -4 with mean -1; read at the second s."""
    network, twin = curves([3, 2, 1], [2, 2, 2]), curves([1, 2, 4], [1, 2, 1])
    found = signature(network, twin, "t", "p")
    assert found is not None
    assert (found.own.value, found.s) == (-1.0, 4.0)
    assert found.own.error == pytest.approx(math.sqrt((4 + 1 + 9) / 2 / 3))
    assert signature(twin, twin, "t", "p").own == Difference(0.0, 0.0)  # type: ignore[union-attr]
    assert signature(network, curves([1, 2, 4], [1, 2, 1], width=1.1), "t", "p") is None
    assert difference(network, twin, "t", "p", 2.0).value == pytest.approx(-1.0)


def test_what_holds_no_backdoor_is_part_of_the_error() -> None:
    """Root mean square of .03 and -.04; Student's t of two degrees is 4.303, of one 12.706, the normal's 1.960."""
    one = Signature(Difference(-0.4, 0.05), 4.0, (Difference(0.03, 0.02), Difference(-0.04, 0.1)))
    size = math.sqrt((0.03**2 + 0.04**2) / 2)
    found = one.metrics("x")
    assert found["x/null"] == pytest.approx(size)
    assert found["x/error_total"] == pytest.approx(size * 4.302653 / 1.959964, rel=1e-6)
    ratios = 0.03 / (0.04 * 12.706205 / 1.959964), 0.04 / max(0.1, 0.03 * 12.706205 / 1.959964)
    assert found["x/null/ratio"] == pytest.approx(sum(ratios) / 2, rel=1e-6)
    assert (found["x"], found["x/error"], found["x/s"], found["x/saturated"]) == (-0.4, 0.05, 4.0, 0.0)
    assert replace(one, null=()).error == 0.05
    assert replace(one, null=()).metrics("x").keys() == {"x", "x/error", "x/s", "x/saturated"}


@pytest.mark.parametrize(
    ("own", "isotropic", "claimed"),
    [
        ((-0.4, 0.1), (-0.5, 0.1), -1),
        ((0.4, 0.1), (0.1, 0.1), 1),
        ((-0.19, 0.1), (-0.5, 0.1), 0),  # the interval holds 0
        ((0.53, 0.08), (-0.58, 0.06), 0),  # whose noise it is would decide
        ((-0.4, 0.1), (0.19, 0.1), -1),  # within the errors
        ((-0.4, 0.1), None, 0),
        (None, (-0.4, 0.1), 0),
    ],
)
def test_direction(own: tuple[float, float] | None, isotropic: tuple[float, float] | None, claimed: int) -> None:
    read = [one and Signature(Difference(*one), 4.0) for one in (own, isotropic)]
    assert direction(*read) == claimed


# the groups


def test_fresh_images_are_other_than_the_poisoned_ones(trial: Trial, digits: Data) -> None:
    for rate in (0.0, 0.01, 0.1):
        context = context_of(digits, BadNets(), rate, trial.twin, None)
        pair = trigger_pairs(context, N)["fresh_train"]
        x = digits.train.x.flatten(1)
        rows = (pair.plain.flatten(1)[:, None] == x).all(2).float().argmax(1)
        assert len(rows.unique()) == N
        assert (context.poisoned.roles[rows] == CLEAN).all()
        assert (digits.train.y[rows] != 0).all()
        stamped = PoisonSpec(BadNets(), rate, 0).triggered(digits.train.take(rows), 10)
        assert torch.equal(pair.triggered, stamped.x)
        assert not (pair.triggered == pair.plain).flatten(1).all(1).any()
    assert ("backdoor" in trigger_pairs(context_of(digits, BadNets(), 0.01, trial.twin, None), N)) is False
    pair = trigger_pairs(trial.context, N)["backdoor"]
    own = (pair.triggered.flatten(1)[:, None] == trial.context.poisoned.images.x.flatten(1)).all(2)
    assert (trial.context.poisoned.roles[own.float().argmax(1)] == 1).all()
    assert torch.equal(pair.plain, digits.train.x[own.float().argmax(1)])


def test_most_fresh_images_are_the_same_at_every_rate(trial: Trial, digits: Data) -> None:
    few, many = (trigger_pairs(context_of(digits, BadNets(), r, trial.twin, None), N) for r in (0.0, 0.1))
    same = (few["fresh_train"].plain.flatten(1)[:, None] == many["fresh_train"].plain.flatten(1)).all(2).any(1)
    assert int(same.sum()) >= 0.8 * N


def test_covers_and_images_that_the_trigger_is_not_meant_for_are_not_fresh(trial: Trial, digits: Data) -> None:
    context = context_of(digits, BadNets(), 0.0, trial.twin, None)
    roles = torch.full_like(context.poisoned.roles, COVER)
    roles[digits.train.y == 0] = CLEAN
    roles[(digits.train.y == 3).nonzero().squeeze(1)[:40]] = CLEAN
    pairs = trigger_pairs(replace(context, poisoned=replace(context.poisoned, roles=roles)), 999)
    assert len(pairs["fresh_train"].plain) == 40
    roles[(digits.train.y == 3).nonzero().squeeze(1)[:10]] = COVER
    assert trigger_pairs(replace(context, poisoned=replace(context.poisoned, roles=roles)), 999) == {}
    everyone = context_of(digits, BadNets(labels="all_to_all"), 0.0, trial.twin, None)
    assert len(trigger_pairs(everyone, 9999)["fresh_train"].plain) == len(digits.train)


def test_each_member_of_an_attack_of_several_stamps_its_share(trial: Trial, digits: Data) -> None:
    attack = Multi(attacks=("badnets", "blended"))
    context = context_of(digits, attack, 0.0, trial.twin, None)
    pair = trigger_pairs(context, N)["fresh_train"]
    by_member = [
        PoisonSpec(attack, 0.0, 0).triggered_by(k, Images(pair.plain, torch.ones(N, dtype=torch.int64)), 10).x
        for k in range(2)
    ]
    is_member = torch.stack([(x == pair.triggered).flatten(1).all(1) for x in by_member])
    assert is_member.any(0).all()
    assert (is_member.sum(1) > N / 4).all()


def test_without_a_trigger_there_is_nothing_to_measure(trial: Trial) -> None:
    context = replace(trial.context, trigger=None)
    clean = replace(context.poisoned, roles=torch.zeros_like(context.poisoned.roles))
    assert measured(replace(context, poisoned=clean)) == {}
    assert NoAttack().check((1, 8, 8), 10) == []


def test_a_scattered_trigger_by_hand() -> None:
    plain = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    plain[1] = 250
    triggered = plain.clone()
    triggered[:, :, 0, 0] = torch.tensor([9, 20, 30], dtype=torch.uint8)  # of the second image 241, 230, 220 less
    triggered[0, :, 1, 1] = 100
    classes = torch.zeros(2, dtype=torch.int64)
    moved = scattered(TriggerPair(triggered, plain, classes), torch.Generator().manual_seed(1))
    order = torch.randperm(4, generator=torch.Generator().manual_seed(1))
    changes = torch.tensor([[[9, 0, 0, 100], [20, 0, 0, 100], [30, 0, 0, 100]], [[-241, 0, 0, 0]] * 3])
    changes[1, :, 0] = torch.tensor([-241, -230, -220])
    assert torch.equal(moved.flatten(2).long(), plain.flatten(2).long() + changes[..., order])
    other = plain.roll(1, 0)
    clipped = scattered(TriggerPair(triggered, other, classes), torch.Generator().manual_seed(1)).flatten(2).long()
    changes = (triggered.long() - other.long()).flatten(2)[..., order]
    assert torch.equal(clipped, (other.flatten(2).long() + changes).clamp(0, 255))


# on networks


def test_names_and_bounds(trial: Trial) -> None:
    found = trial.found
    groups = ["fresh_train", "fresh_train_plain", "backdoor", "backdoor_plain"]
    for prefix in ("mi", "mi/control"):
        for group in groups:
            for name in (f"{prefix}/xt_own/s_4/{group}", f"{prefix}/xt_iso/s_1.5/{group}"):
                assert found[f"{name}/low"] <= min(found[f"{name}/loo"], math.log(N))
            falling = [found[f"{prefix}/xt_own/s_{s}/{group}/low"] for s in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24)]
            assert all(a >= b - 0.05 for a, b in zip(falling, falling[1:], strict=False))
    assert found["mi/samples/fresh_train"] == found["mi/samples/backdoor"] == N
    for stem in ("mi/signature", "mi/signature_isotropic", "mi/signature_backdoor", "mi/signature_backdoor_isotropic"):
        assert found[f"{stem}/saturated"] == 0
        kind = "xt_iso" if "isotropic" in stem else "xt_own"
        group = "backdoor" if "backdoor" in stem else "fresh_train"
        s = f"{found[f'{stem}/s']:g}"
        d = [
            found[f"{prefix}/{kind}/s_{s}/{group}/low"] - found[f"{prefix}/{kind}/s_{s}/{group}_plain/low"]
            for prefix in ("mi", "mi/control")
        ]
        assert found[stem] == pytest.approx(d[0] - d[1], abs=1e-5)
    assert all(math.isfinite(value) for value in found.values())


def test_saturated_where_nothing_is_added_and_told_where_it_is_read(trial: Trial) -> None:
    """At s = 0 every group is within a tenth of log N; at the s that is read the two estimates are within a nat."""
    names = [f"{prefix}/xt_own/s_%s/fresh_train{end}" for prefix in ("mi", "mi/control") for end in ("", "_plain")]
    s = f"{trial.found['mi/signature/s']:g}"
    for name in names:
        assert trial.found[f"{name % '0'}/low"] > 0.9 * math.log(N)
        assert trial.found[f"{name % '0'}/loo"] > trial.found[f"{name % '0'}/low"] + 1
        assert trial.found[f"{name % s}/loo"] <= trial.found[f"{name % s}/low"] + 1
        assert trial.found[f"{name % s}/low"] < 0.75 * math.log(N)


def test_more_images_say_the_same_at_one_s(trial: Trial) -> None:
    """The middle of 64 images and of 160, where both can be told."""
    many = resolved_metrics(trial.context, trigger_pairs(trial.context, 160), PASSES, {})
    for group in ("fresh_train", "fresh_train_plain"):
        name = f"mi/xt_own/s_6/{group}"
        few, more = ((found[f"{name}/low"] + found[f"{name}/loo"]) / 2 for found in (trial.found, many))
        assert few == pytest.approx(more, abs=0.2)


def test_a_patch_that_took_hold_has_a_signature(trial: Trial) -> None:
    """BadNets at 10 % on digits: the network drops some of the image where it sees the patch."""
    found = trial.found
    assert found["mi/signature"] < -0.15
    assert found["mi/signature_isotropic"] < -0.3
    assert found["mi/signature"] < -2 * found["mi/signature/error_total"]
    assert found["mi/signature/direction"] == found["mi/signature_backdoor/direction"] == -1
    assert found["mi/signature_backdoor"] == pytest.approx(found["mi/signature"], abs=0.25)


def test_a_network_that_is_its_own_twin_has_none_by_definition(trial: Trial, digits: Data) -> None:
    found = measured(context_of(digits, BadNets(), 0.0, trial.twin, trial.twin))
    assert (found["mi/signature"], found["mi/signature/error"], found["mi/signature/direction"]) == (0, 0, 0)
    assert "mi/xt_own/s_4/fresh_train/low" in found
    assert not any("control" in name for name in found)
    alone = measured(context_of(digits, BadNets(), 0.0, trial.twin, None))
    assert not any("signature" in name for name in alone)


def test_a_network_against_itself_is_exactly_nothing(trial: Trial, digits: Data) -> None:
    """Another object with the same weights: the same noise is drawn, and nothing is left."""
    found = measured(context_of(digits, BadNets(), 0.1, trial.twin, copy.deepcopy(trial.twin)))
    for name in ("mi/signature", "mi/signature_isotropic", "mi/signature_backdoor", "mi/signature/null"):
        assert found[name] == 0
    assert found["mi/signature/direction"] == 0


def test_a_new_order_of_the_twin_s_channels_changes_nothing(trial: Trial, digits: Data) -> None:
    """T's channels permuted, weights of the head with them: the same network, but for its names."""

    class Renamed(type(trial.twin)):  # type: ignore[misc]
        def features(self, x: Tensor) -> Tensor:
            return super().features(x)[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))]

    renamed = copy.deepcopy(trial.twin)
    renamed.__class__ = Renamed
    found = measured(replace(trial.context, twin=renamed))
    for name in ("mi/signature", "mi/signature_isotropic", "mi/signature/error_total"):
        assert found[name] == pytest.approx(trial.found[name], abs=0.002)


def test_measuring_changes_nothing_and_comes_out_again(trial: Trial) -> None:
    state = torch.random.get_rng_state()
    again = measured(trial.context)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again == trial.found


def test_what_cannot_be_told_is_no_number(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybd.metrics.information.resolution.WIDEST", -1.0)
    found = measured(trial.context)
    told = {name: value for name, value in found.items() if name.startswith("mi/signature")}
    assert told == {
        "mi/signature/saturated": 1,
        "mi/signature_isotropic/saturated": 1,
        "mi/signature/direction": 0,
        "mi/signature_backdoor/saturated": 1,
        "mi/signature_backdoor_isotropic/saturated": 1,
        "mi/signature_backdoor/direction": 0,
    }


def colours() -> Data:
    """Four classes of colour images (3, 12, 12): stripes of a class's own direction and period, in any colour."""
    rng = torch.Generator().manual_seed(0)

    def made(n: int) -> Images:
        y = torch.arange(n) % 4
        at = torch.arange(12.0)
        angle, period = (y * math.pi / 4).view(-1, 1, 1), 3.0 + y.view(-1, 1, 1)
        along = angle.cos() * at.view(1, -1, 1) + angle.sin() * at
        phase = torch.rand(n, 1, 1, generator=rng)
        stripes = (2 * math.pi * (along / period + phase)).sin()[:, None]
        colour = torch.rand(n, 3, 1, 1, generator=rng)
        x = 127 + 90 * stripes * colour + 25 * torch.randn(n, 3, 12, 12, generator=rng)
        return Images(x.clamp(0, 255).to(torch.uint8), y)

    train, test = made(480), made(80)
    return Data("colours", train, test, ("0", "1", "2", "3"), "", (0.5,) * 3, (0.3,) * 3)


def test_a_blend_costs_a_clean_network_as_much() -> None:
    """Two clean networks: the trigger takes information from both, and there is no signature in that."""
    data = colours()
    one, other = (trained(data, data.train, seed, epochs=4) for seed in range(2))
    context = context_of(data, Blended(alpha=0.3), 0.0, one, other)
    found = measured(context)
    s = f"{found['mi/signature_isotropic/s']:g}"
    names = [f"{prefix}/xt_iso/s_{s}/fresh_train" for prefix in ("mi", "mi/control")]
    assert all(found[f"{name}/low"] - found[f"{name}_plain/low"] < -0.3 for name in names)
    for stem in ("mi/signature", "mi/signature_isotropic"):
        assert abs(found[stem]) < 0.12
        assert abs(found[stem]) < 2.5 * found[f"{stem}/error_total"]


@pytest.mark.calibration
@pytest.mark.parametrize("attack", [BadNets(), Blended()])
def test_null_over_pairs_of_clean_networks(digits: Data, attack: Attack) -> None:
    """Six clean networks in a ring: the mean size at most .06, and within two errors nine times of ten."""
    networks = [trained(digits, digits.train, seed, epochs=20) for seed in range(10)]
    found = [
        measured(context_of(digits, attack, 0.0, model, networks[k - 1], seed=k)) for k, model in enumerate(networks)
    ]
    for stem in ("mi/signature", "mi/signature_isotropic"):
        values = torch.tensor([one[stem] for one in found])
        errors = torch.tensor([one[f"{stem}/error_total"] for one in found])
        assert float(values.square().mean().sqrt()) <= 0.08
        assert abs(float(values.mean())) <= 0.05
        assert int((values.abs() <= 2 * errors).sum()) >= 9


@pytest.mark.calibration
def test_it_grows_with_the_rate_and_is_nothing_where_the_backdoor_did_not_take(digits: Data) -> None:
    twin = trained(digits, digits.train, 0, epochs=20)
    found = {}
    for rate in (0.002, 0.01, 0.1):
        images = PoisonSpec(BadNets(), rate, 0).poison(digits.train, 10).images
        found[rate] = measured(context_of(digits, BadNets(), rate, trained(digits, images, 0, epochs=20), twin))
    values = [one["mi/signature"] for one in found.values()]
    assert values[0] > values[1] > values[2]
    assert values[2] == pytest.approx(-0.45, abs=0.15)


def test_clean_groups_have_curves_too(trial: Trial, digits: Data) -> None:
    """Those of the network alone, also where there is no attack; and nothing else is changed by them."""
    beside = {"clean_3": digits.train.x[digits.train.y == 3][:40]}
    found = resolved_metrics(trial.context, trigger_pairs(trial.context, N), PASSES, beside)
    more = {name: value for name, value in found.items() if name not in trial.found}
    assert more.keys() == {
        f"mi/xt_{kind}/s_{s:g}/clean_3/{end}" for kind, grid in GRIDS.items() for s in grid for end in ("low", "loo")
    }
    assert {name: found[name] for name in trial.found} == trial.found
    alone = replace(trial.context, trigger=None, poisoned=PoisonSpec(NoAttack(), 0.0, 0).poison(digits.train, 10))
    assert resolved_metrics(alone, {}, PASSES, beside).keys() == more.keys()
    assert more["mi/xt_own/s_4/clean_3/low"] < math.log(40)


@pytest.mark.parametrize("name", sorted(ATTACKS.keys() - {"none"}))
def test_every_attack_has_fresh_images(trial: Trial, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the trigger of test time, whatever it does to training images."""
    monkeypatch.setattr("raybd.attacks.generator.MASK_EPOCHS", 1)
    quick = {
        "advdoor": {"images": 20, "passes": 1},
        "narcissus": {"steps": 12, "step": 50.0},
        "ssba": {"steps": 3, "width": 4},
    }
    settings = quick.get(name, {})
    images, attack = made_images(160, (3, 32, 32), classes=5), ATTACKS[name](**settings)
    assert attack.check(images.shape, 5) == []
    data = Data("made", images, images, tuple("abcde"), "", (0.5,) * 3, (0.3,) * 3)
    pair = trigger_pairs(context_of(data, attack, 0.0, trial.model, None), N)["fresh_train"]
    assert pair.plain.shape == pair.triggered.shape
    assert (pair.plain != pair.triggered).flatten(1).any(1).float().mean() > 0.9
    if len(attack.members()) == 1 and not attack.many_targets:
        again = PoisonSpec(attack, 0.0, 0).on(images, 5).triggered(Images(pair.plain, pair.true), 5)
        assert torch.equal(pair.triggered, again.x)


def test_resolution_is_drawn(trial: Trial) -> None:
    history = [{"epoch": 1, "metrics": {"loss/train": 1.0}}, {"epoch": 6, "metrics": trial.found}]
    assert resolution_curves(history[:1], "a title") is None
    figure = resolution_curves(history, "a title")
    assert figure is not None
    for axes, kind in zip(figure.axes, ("own", "iso"), strict=True):
        curves = [line for line in axes.lines if len(line.get_xdata()) == len(GRIDS[kind])]  # type: ignore[arg-type]
        assert len(curves) == 4
        low = [trial.found[f"mi/xt_{kind}/s_{s:g}/fresh_train/low"] for s in GRIDS[kind]]
        assert list(curves[0].get_ydata()) == low  # type: ignore[arg-type]
        assert len(axes.lines) == 5  # and the s that is read
    assert f"signature {trial.found['mi/signature']:.2f}" in figure.axes[0].get_title()
    untold = {k: v for k, v in trial.found.items() if "signature" not in k} | {"mi/signature/saturated": 1.0}
    figure = resolution_curves([{"epoch": 6, "metrics": untold}], "a title")
    assert figure is not None
    assert figure.axes[0].get_title() == "signature: cannot be told"


def test_no_state_is_kept_between_networks(trial: Trial) -> None:
    x = {"g": trial.context.data.train.x[:40]}
    first = ResolvedNetwork.of(trial.model, trial.context, 8).curves(x)["own"]["g"].low
    ResolvedNetwork.of(trial.twin, trial.context, 8).curves(x)
    assert torch.equal(first, ResolvedNetwork.of(trial.model, trial.context, 8).curves(x)["own"]["g"].low)


def test_a_long_measurement_gives_signs_of_life(trial: Trial) -> None:
    """One at each of four groups and four scattered triggers in two networks."""
    beats = []
    assert measured(replace(trial.context, heartbeat=lambda: beats.append(1))) == trial.found
    assert len(beats) == 16
