"""The input-aware attack: its formulas by hand, a step of its training, resumed exactly, verified at every probe."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raybd.attacks import ATTACKS, Multi, parse
from raybd.attacks.generator import Generator, distance, diversity_loss, enlarged, threshold, train_mask
from raybd.attacks.input_aware import GeneratorTraining, InputAware, blend
from raybd.attacks.networks import from_vector, passed, size_of, sketch, to_vector
from raybd.attacks.poisoning import PoisonSpec
from raybd.command_line.grid import expand
from raybd.command_line.options import SweepOptions
from raybd.defences import DEFENCES, NoDefence, Oracle
from raybd.defences.clp import Clp
from raybd.errors import InputError, PoisoningError
from raybd.plugins import name_of
from raybd.seeds import stream
from raybd.training import AttackedImages, Checkpoint, TrainConfig, TrainingAttacker, fit
from raybd.trials.config import TrialConfig
from raybd.trials.model import ModelConfig
from raybd.trials.run import run_trial
from raybd.trials.validate import problems
from raybd.types import COVER, POISON, Data, Images, Report
from tests.conftest import made_images

SHAPE = (1, 8, 8)
HOW = TrainConfig(epochs=3, batch_size=20, learning_rate=0.05)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """How well the masks and the surrogate have learnt is asked elsewhere."""
    monkeypatch.setattr("raybd.attacks.generator.MASK_EPOCHS", 1)
    monkeypatch.setattr("raybd.attacks.surrogate.EPOCHS", (1, 1))


def victim() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def attacked(images: Images, seed: int = 3, rate: float = 0.2) -> tuple[AttackedImages, Tensor]:
    """`images` with a generator's training, and the roles."""
    attack = InputAware()
    spec = PoisonSpec(attack, rate, seed).on(images, 4)
    poisoned = spec.poison(images, 4)
    attacker = GeneratorTraining(attack, images, poisoned.roles, spec.trigger(images.shape, 4), seed)
    return AttackedImages(images.x, poisoned.images.y, attacker), poisoned.roles


# --- formulas -------------------------------------------------------------------------------------------------------


def test_distance_and_diversity_by_hand() -> None:
    x, other = torch.tensor([[[[0.0, 3.0]]], [[[1.0, 1.0]]]]), torch.tensor([[[[4.0, 0.0]]], [[[1.0, 3.0]]]])
    made, made_other = torch.tensor([[[[1.0, 1.0]]], [[[0.0, 0.5]]]]), torch.tensor([[[[0.0, 0.0]]], [[[0.0, 0.0]]]])
    assert distance(x, other).tolist() == pytest.approx([np.sqrt(25 / 2), np.sqrt(2)])
    expected = (np.sqrt(12.5) / (1 + 1e-7) + np.sqrt(2) / (np.sqrt(0.125) + 1e-7)) / 2
    assert float(diversity_loss(x, other, made, made_other)) == pytest.approx(expected)


def test_an_image_beside_itself_costs_nothing_and_has_a_gradient() -> None:
    made = torch.rand(2, 1, 4, 4, requires_grad=True)
    loss = diversity_loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), made, made)
    loss.backward()
    assert float(loss.detach()) == 0
    assert made.grad is not None
    assert bool(made.grad.isfinite().all())


def test_threshold_is_a_steep_step_at_one_half() -> None:
    x = torch.tensor([0.0, 0.4, 0.5, 0.6, 1.0])
    assert threshold(x).tolist() == pytest.approx([*(np.tanh(20 * x.double().numpy() - 10) / 2 + 0.5)], abs=1e-6)


@pytest.mark.parametrize(("shape", "weights"), [((1, 8, 8), 2), ((1, 28, 28), 2), ((3, 32, 32), 3), ((3, 33, 40), 3)])
def test_generators_keep_the_image_s_size(shape: tuple[int, int, int], weights: int) -> None:
    network = Generator(shape, 1).eval()
    assert len(network.down) == weights
    made = network(torch.rand(2, *shape))
    assert made.shape == (2, 1, *shape[1:])
    assert 0 < made.min() < made.max() < 1


@pytest.mark.parametrize(("old", "new"), [((2, 2), (4, 4)), ((3, 5), (7, 11)), ((1, 2), (3, 4))], ids=str)
def test_enlarging_is_pytorch_s(old: tuple[int, int], new: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *old)
    assert torch.allclose(enlarged(x, new), F.interpolate(x, new, mode="bilinear", align_corners=True), atol=1e-6)


def test_networks_go_into_a_vector_and_come_back() -> None:
    network = Generator(SHAPE, 1)
    network.train()(torch.rand(5, *SHAPE))  # running statistics
    vector, x = to_vector(network), torch.rand(3, *SHAPE)
    empty = sketch(lambda: Generator(SHAPE, 1))
    assert size_of(empty) == len(vector)
    assert torch.equal(from_vector(empty, vector)(x), network.eval()(x))
    with pytest.raises(ValueError, match="weights for a network"):
        from_vector(sketch(lambda: Generator(SHAPE, 1)), vector[:-1])


def test_images_pass_alone_as_in_any_company() -> None:
    network, x = Generator(SHAPE, 1).eval(), torch.rand(21, *SHAPE)
    whole = passed(network, x)
    assert torch.allclose(whole, network(x), atol=1e-6)
    assert torch.equal(passed(network, x[:3]), whole[:3])


# --- the trigger ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 9)], ids=str)
def test_each_image_has_its_own_trigger_and_covers_have_another_s(shape: tuple[int, int, int]) -> None:
    images = made_images(60, shape, 4)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    spec = PoisonSpec(InputAware(), 0.2, 5).on(images, 4)
    poisoned = spec.poison(images, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    mask, generator = InputAware().networks(shape, spec.trigger(shape, 4))

    def b(x: Tensor, donor: Tensor) -> Tensor:
        g, m = 255 * generator(donor[None] / 255)[0], torch.tanh(20 * mask(donor[None] / 255)[0] - 10) / 2 + 0.5
        return (1 - m) * x + m * g

    x = images.x.float()
    made = torch.stack([b(one, one) for one in x])
    assert ((spec.triggered(images, 4).x - made).abs() <= 0.501).all()
    index = (poisoned.roles == POISON).nonzero()[:, 0]
    assert ((poisoned.images.x[index] - made[index]).abs() <= 0.501).all()
    covers = spec.indices(images)[0].cover
    assert len(index) == len(covers) == 12
    donors = InputAware().draw_per_cover(images.take(covers), images, 4, stream(5, "parts", 0, COVER, 0))
    assert all((donor == images.x).flatten(1).all(1).any() for donor in donors)
    crossed = torch.stack([b(x[k], donor.float()) for k, donor in zip(covers, donors, strict=True)])
    assert ((poisoned.images.x[covers] - crossed).abs() <= 0.501).all()
    assert ((poisoned.images.x[covers] - made[covers]).abs() > 0.501).any()
    assert torch.equal(poisoned.images.y[covers], images.y[covers])


def test_masks_learn_to_be_small_and_to_differ(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the same training without either term, masks are larger, or alike."""
    monkeypatch.setattr("raybd.attacks.generator.MASK_EPOCHS", 12)
    train, x = digits.train.take(torch.arange(128)), digits.train.x[:40].float() / 255

    def masks(lambda_norm: float, lambda_div: float) -> Tensor:
        return threshold(train_mask(train, 0.032, lambda_norm, lambda_div, 0.01).eval()(x)).detach()

    found, unbounded, alike = masks(100.0, 1.0), masks(0.0, 1.0), masks(100.0, 0.0)
    assert found.mean() < unbounded.mean() / 2
    assert diversity_loss(x[:20], x[20:], *found.split(20)) < diversity_loss(x[:20], x[20:], *alike.split(20)) / 3


# --- its training ---------------------------------------------------------------------------------------------------


def test_a_step_of_the_training_by_hand() -> None:
    """The batch, the objective and the generator's gradients, written once more from the paper."""
    images = made_images(40, SHAPE, 4)
    data, roles = attacked(images)
    attacker = data.attacker
    assert isinstance(attacker, GeneratorTraining)
    generator, model = copy.deepcopy(attacker.generator).train(), victim()
    attacker.begin(1)
    index = roles.long().argsort(stable=True)[-24:][torch.randperm(24)]
    x = images.x[index].float() / 255
    made = attacker.batch(x, index)
    objective = attacker.objective(F.cross_entropy(model(made), data.y[index]))
    objective.backward()

    poison, cover = ((roles[index] == role).nonzero()[:, 0] for role in (POISON, COVER))
    assert len(poison) > 1 < len(cover)
    drawn = torch.randint(40, (len(poison) + len(cover),), generator=stream(3, "partners", 1))
    assert bool((drawn[: len(poison)] != index[poison]).all())  # the norm of 0 has no gradient here
    partners = images.x[drawn].float() / 255
    seen = torch.cat([x[poison], partners])
    g, m = generator(seen), threshold(attacker.mask(seen))
    expected = x.clone()
    n = len(poison)
    expected[poison] = x[poison] * (1 - m[:n]) + m[:n] * g[:n]
    expected[cover] = x[cover] * (1 - m[2 * n :]) + m[2 * n :] * g[2 * n :]
    assert torch.allclose(made * 255, (expected * 255).round(), atol=1e-3)
    rounded = expected + ((expected * 255).round() / 255 - expected).detach()
    differences = [(a - b).square().mean().sqrt() for a, b in zip(x[poison], partners[:n], strict=True)]
    apart = [(a - b).square().mean().sqrt() for a, b in zip(g[:n], g[n : 2 * n], strict=True)]
    diversity = torch.stack([d / (p + 1e-7) for d, p in zip(differences, apart, strict=True)]).mean()
    loss = F.cross_entropy(model(rounded), data.y[index]) + diversity
    assert float(objective) == pytest.approx(float(loss), rel=1e-5)
    gradients = torch.autograd.grad(loss, list(generator.parameters()))
    for weight, gradient in zip(attacker.generator.parameters(), gradients, strict=True):
        assert weight.grad is not None
        assert torch.allclose(weight.grad, gradient, rtol=1e-3, atol=1e-6)

    before = to_vector(attacker.generator)
    attacker.step(0.0)
    moved = (to_vector(attacker.generator) - before).abs()
    assert moved.max() == pytest.approx(0.01, rel=0.01)  # Adam's first step
    assert all(weight.grad is None for weight in attacker.generator.parameters())


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 1e-2), (0.4, 1e-3), (0.6, 1e-4), (0.7, 1e-5), (0.99, 1e-6)])
def test_the_generator_s_learning_rate_falls_four_times(progress: float, rate: float) -> None:
    attacker = attacked(made_images(40, SHAPE, 4))[0].attacker
    assert isinstance(attacker, GeneratorTraining)
    attacker.step(progress)
    assert attacker.optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_images_that_nobody_touches_pass_as_they_are() -> None:
    images = made_images(40, SHAPE, 4)
    data, roles = attacked(images)
    data.attacker.begin(1)
    clean = (roles == 0).nonzero()[:, 0]
    x = images.x[clean].float() / 255
    assert torch.equal(data.attacker.batch(x, clean), x)
    loss = torch.tensor(2.0)
    assert data.attacker.objective(loss) is loss


def test_an_attacker_who_does_nothing_changes_no_bit() -> None:
    images, models = made_images(50, SHAPE, 4), [victim(), victim()]
    losses = [
        [epoch.loss for epoch in fit(model, some, HOW, 1)]
        for model, some in zip(models, (images, AttackedImages(images.x, images.y, TrainingAttacker())), strict=True)
    ]
    assert losses[0] == losses[1]
    assert torch.equal(to_vector(models[0]), to_vector(models[1]))


def test_a_training_that_is_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    images = made_images(50, SHAPE, 4)
    whole, halves = attacked(images)[0], [attacked(images)[0] for _ in range(2)]
    models = [victim(), victim(), victim()]
    losses = [epoch.loss for epoch in fit(models[0], whole, HOW, 1)]
    checkpoint = Checkpoint(tmp_path / "c.pt", every=0)
    first = fit(models[1], halves[0], HOW, 1, checkpoint)
    found = [next(first).loss, next(first).loss]
    first.close()  # type: ignore[attr-defined]
    with torch.no_grad():
        models[2].load_state_dict(models[1].state_dict())
    found[1:] = [epoch.loss for epoch in fit(models[2], halves[1], HOW, 1, Checkpoint(tmp_path / "c.pt", every=0))]
    assert found == losses
    assert torch.equal(to_vector(models[0]), to_vector(models[2]))
    assert torch.equal(whole.attacker.pattern(), halves[1].attacker.pattern())
    start = attacked(images)[0].attacker.pattern()
    assert not torch.equal(whole.attacker.pattern(), start)
    masks = size_of(sketch(lambda: Generator(SHAPE, 1)))
    assert torch.equal(whole.attacker.pattern()[:masks], start[:masks])  # the mask is done


# --- trials ---------------------------------------------------------------------------------------------------------


def config(**changes: object) -> TrialConfig:
    train = TrainConfig(epochs=2, batch_size=128, learning_rate=0.05)
    usual = TrialConfig(attack=InputAware(), poison_rate=0.1, model=ModelConfig(width=0.25, noise=0.0), train=train)
    return replace(usual, **changes)  # type: ignore[arg-type]


def test_a_trial_is_measured_with_the_trigger_as_it_is_at_each_probe(
    digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    triggers: list[str] = []
    verified = "raybd.trials.base.verify_poisoning"
    from raybd.attacks.verification import verify_poisoning

    def note(*given: object) -> dict[str, object]:
        manifest = verify_poisoning(*given)  # type: ignore[arg-type]
        triggers.append(manifest["trigger"])
        return manifest

    monkeypatch.setattr(verified, note)
    reports: list[Report] = []
    result = run_trial(config(), digits, reports.append)
    assert len(set(triggers)) == len(triggers) == 3  # before the training, and after each epoch
    assert result.manifest["trigger"] == triggers[-1]
    assert result.manifest["poison"] == result.manifest["cover"] == round(0.1 * len(digits.train))
    assert all("attack_success" in report.metrics for report in reports)


class Vanishing(GeneratorTraining):
    """Its masks have learnt to take nothing."""

    def pattern(self) -> Tensor:
        self.mask.up[-1][-1][1].bias.data.fill_(-100.0)  # type: ignore[union-attr,index,operator]
        return super().pattern()


def test_a_trigger_that_vanishes_while_it_is_trained_is_refused(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raybd.attacks.input_aware.GeneratorTraining", Vanishing)
    with pytest.raises(PoisoningError, match="changes only 0.0%"):
        run_trial(config(), digits)


def test_a_repair_may_follow_and_no_other_defence(digits: Data) -> None:
    assert run_trial(config(defence=Clp()), digits).metrics["accuracy/clean"] > 0
    allowed = {name for name, one in DEFENCES.items() if one.after_training}
    assert {"none", "anp", "clp", "fine_pruning", "nad"} <= allowed
    assert not {"abl", "oracle", "spectral", "vibe", "augmented", "regularised"} & allowed
    (said,) = problems(config(defence=Oracle()))
    assert "attack input_aware trains the network itself, and so would defence oracle" in said
    assert all(name in said for name in (*allowed, "input_aware:static"))
    for fine in (
        config(defence=Oracle(), poison_rate=0.0),
        config(defence=Oracle(), attack=parse("input_aware:static")),
    ):
        assert problems(fine) == []


def test_all_attacks_and_all_defences_make_a_sweep_without_pairs_that_cannot_be() -> None:
    options = SweepOptions.of(attacks=("all",), defences=tuple(DEFENCES), poison_rates=(0.05,), validation=0.1, seeds=1)
    trials = expand(options)
    pairs = {(name_of(ATTACKS, one.attack), name_of(DEFENCES, one.defence)) for one in trials}
    poisoning = {name for name in ATTACKS if name != "none"}
    left_out = {("input_aware", name) for name, one in DEFENCES.items() if not one.after_training}
    assert pairs == {(attack, defence) for attack in poisoning for defence in DEFENCES} - left_out
    assert [problem for one in trials for problem in problems(one)] == []


def test_what_else_cannot_train_along(digits: Data) -> None:
    several = config(train=TrainConfig(workers=2, batch_size=64))
    assert "in one process: not by 2 workers" in "\n".join(problems(several))
    weighted = config(train=TrainConfig(beta=0.5))
    assert "poisons anew in every epoch cannot be weighted" in "\n".join(problems(weighted))
    convex = TrialConfig(attack=InputAware(), data="digits[7,1]", model=ModelConfig(name="svm"), defence=NoDefence())
    assert "model svm has no training that attack input_aware could control" in "\n".join(problems(convex))
    assert "poisons anew" in "\n".join(Multi(attacks=("input_aware", "badnets")).check(SHAPE, 10))
    with pytest.raises(InputError):
        run_trial(config(defence=Oracle()), digits)


def test_static_the_generator_is_trained_beforehand_once_for_all_seeds(digits: Data) -> None:
    train, attack = digits.train.take(torch.arange(300)), InputAware(training="beforehand")
    first, again = (PoisonSpec(attack, 0.1, seed).on(train, 10).trigger(train.shape, 10) for seed in (0, 1))
    assert torch.equal(first, again)
    assert not attack.controls_training()
    starts = [PoisonSpec(InputAware(), 0.1, seed).on(train, 10).trigger(train.shape, 10) for seed in (0, 1)]
    masks = size_of(sketch(lambda: Generator(train.shape, 1)))
    assert all(torch.equal(start[:masks], first[:masks]) for start in starts)
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(first, starts[0])


def test_blend_between_image_and_pattern() -> None:
    x, pattern = torch.full((1, 3, 2, 2), 100.0), torch.full((1, 3, 2, 2), 200.0)
    mask = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]])
    assert blend(x, pattern, mask)[0, 0].tolist() == [[100.0, 125.0], [150.0, 200.0]]
