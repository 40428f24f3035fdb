"""Inspection of trained networks: ranks against closed forms, files of every kind, planted backdoors, repairs."""

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import raybd
from raybd.attacks import BadNets, NoAttack
from raybd.cli import main
from raybd.errors import InputError
from raybd.inspection.figures import Measures, figures
from raybd.inspection.inspect import inspect_model
from raybd.inspection.references import clean_figures
from raybd.inspection.report import Inspection
from raybd.inspection.suspect import suspect_of
from raybd.inspection.verdict import judge, rank_p, scores
from raybd.metrics.detection.neural_cleanse import NeuralCleanse
from raybd.metrics.detection.noise_votes import NoiseVotes
from raybd.metrics.detection.strip import Strip
from raybd.models.network_files import export_network, write_program
from raybd.models.trigger_inversion import apply_triggers
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.run import run_trial
from raybd.types import Data

TRAIN = TrainConfig(epochs=6)
FAST = Measures(NeuralCleanse(runs=1, steps=60), Strip(points=20, blends=8), NoiseVotes(points=20, draws=8), points=20)
MODEL = ModelConfig(width=0.5)


def trained(digits: Data, rate: float, seed: int = 50) -> nn.Module:
    config = TrialConfig(attack=BadNets(), poison_rate=rate, model=MODEL, train=TRAIN, seed=seed, probes=(6,))
    return run_trial(config, digits).model.eval()


@pytest.fixture(scope="module")
def backdoored(digits: Data) -> nn.Module:
    return trained(digits, 0.1)


@pytest.fixture(scope="module")
def inspection(digits: Data, backdoored: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    """Of a state_dict, with its trigger and two repairs."""
    folder = tmp_path_factory.mktemp("inspected")
    torch.save(backdoored.state_dict(), folder / "x.pt")
    return inspect_model(
        folder / "x.pt",
        digits,
        network="small_cnn",
        width=0.5,
        attack="badnets",
        references=4,
        train=TRAIN,
        measures=FAST,
        repairs=("fine_pruning:steps=60", "anp:steps=20"),
        out=folder / "repaired.pt",
    )


def test_rank_p_counts_those_at_least_as_far() -> None:
    assert rank_p(5.0, [1.0, 2.0, 3.0, 4.0]) == 1 / 5
    assert rank_p(3.0, [1.0, 2.0, 3.0, 4.0]) == 3 / 5
    assert rank_p(0.0, [1.0, 2.0, 3.0, 4.0], -1) == 1 / 5
    assert rank_p(0.0, [1.0, 2.0, 3.0, 4.0]) == 1.0


def test_of_exchangeable_networks_one_in_n_plus_one_is_suspicious() -> None:
    """Exactly: whichever of n + 1 networks is the one inspected, one choice alone is called suspicious."""
    rng = np.random.default_rng(0)
    for n in (2, 5, 9):
        names = ("neural_cleanse/index", "neural_cleanse/smallest", "strip/inverted")
        made = [
            {"accuracy/clean": 0.9} | {name: float(v) for name, v in zip(names, rng.gamma(2, size=3), strict=True)}
            for _ in range(n + 1)
        ]
        called = [judge(made[i], made[:i] + made[i + 1 :]).status for i in range(n + 1)]
        assert called.count("suspicious") == 1
        assert sorted(judge(made[i], made[:i] + made[i + 1 :]).p or 0 for i in range(n + 1)) == pytest.approx(
            [k / (n + 1) for k in range(1, n + 2)]
        )


def test_scores_do_not_hang_on_order_or_units() -> None:
    made = [
        {"neural_cleanse/smallest": size, "strip/inverted": share}
        for size, share in ((9, 0.6), (8, 0.5), (7.5, 0.55), (2, 0.9))
    ]
    whole = scores(made)
    assert int(np.argmax(whole)) == 3
    for order in itertools.permutations(range(4)):
        assert scores([made[i] for i in order]) == pytest.approx([whole[i] for i in order])
    doubled = [one | {"neural_cleanse/smallest": 2 * one["neural_cleanse/smallest"]} for one in made]
    assert scores(doubled) == pytest.approx(whole)
    # by hand: sizes have median 7.75 and MAD (1.25 + 0.25) / 2; shares median 0.575 and MAD (0.025 + 0.075) / 2
    assert whole[3] == pytest.approx(max(5.75 / (1.4826 * 0.75), 0.325 / (1.4826 * 0.05)))


@pytest.mark.parametrize(
    ("own", "status"),
    [
        ({"accuracy/clean": 0.95, "strip/inverted": 0.9}, "suspicious"),
        ({"accuracy/clean": 0.95, "strip/inverted": 0.5}, "unremarkable"),
        ({"accuracy/clean": 0.5, "strip/inverted": 0.9}, "unknown"),  # not given the images it was trained for
        ({"accuracy/clean": 0.95}, "unknown"),  # without gradients
        ({"accuracy/clean": 0.95, "strip/inverted": 0.5, "attack_success": 0.9}, "backdoored"),
        ({"accuracy/clean": 0.95, "strip/inverted": 0.5, "attack_success": 0.11}, "unremarkable"),
    ],
)
def test_verdicts_of_made_figures(own: dict[str, float], status: str) -> None:
    clean = [{"accuracy/clean": 0.95, "strip/inverted": s, "attack_success": 0.02} for s in (0.5, 0.55, 0.6, 0.65)]
    verdict = judge(own, clean)
    assert verdict.status == status
    assert ("one in 5" in verdict.reason) == (status == "suspicious")
    assert ("does not show that it is clean" in verdict.reason) == (status == "unremarkable")


def test_a_planted_backdoor_with_its_trigger_is_told(
    inspection: Inspection, digits: Data, backdoored: nn.Module
) -> None:
    assert inspection.verdict.status == "backdoored"
    assert inspection.figures["attack_success"] > 0.9
    assert all(one["attack_success"] < 0.1 for one in inspection.clean)
    config = TrialConfig(attack=BadNets(), poison_rate=0.1, model=MODEL, train=TRAIN, seed=50, probes=(6,))
    assert inspection.figures["attack_success"] == run_trial(config, digits).metrics["attack_success"]
    frame = inspection.to_frame()
    assert frame.loc["attack_success", "p"] == 1 / 5
    assert frame.loc["neural_cleanse/smallest", "value"] < frame.loc["neural_cleanse/smallest", "clean_median"]
    for text in (str(inspection), inspection._repr_html_()):
        assert "backdoored" in text
        assert "What this cannot tell" in text


def test_repairs_have_their_figures_and_files(inspection: Inspection, digits: Data) -> None:
    before = inspection.figures
    assert set(inspection.repaired) == {"fine_pruning:steps=60", "anp:steps=20"}
    for one in inspection.repairs:
        after = inspection.repaired[one.name]
        assert one.file is not None
        network = suspect_of(one.file, digits, MODEL).network
        again = figures(network, digits, FAST, BadNets())
        assert again == pytest.approx(after, abs=1e-6)
        assert after["attack_success"] <= before["attack_success"]
        assert one.numbers["defence/extra_images"] > 0
    assert inspection.repaired["fine_pruning:steps=60"] != inspection.repaired["anp:steps=20"]
    assert "after anp:steps=20" in inspection.to_frame().columns


def test_clean_networks_are_trained_and_measured_once(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = clean_figures(digits, MODEL, TrainConfig(epochs=1), FAST, NoAttack(), range(2), tmp_path)
    files = sorted(path.name for path in (tmp_path / "inspection").glob("*[npt]"))
    assert len(files) == 4  # weights and figures of each
    monkeypatch.setattr("raybd.inspection.references.figures", None)
    monkeypatch.setattr("raybd.inspection.references.deployed_network", None)
    assert clean_figures(digits, MODEL, TrainConfig(epochs=1), FAST, NoAttack(), range(2), tmp_path) == first
    assert first[0] != first[1]
    with pytest.raises(TypeError):  # another training is another network
        clean_figures(digits, MODEL, TrainConfig(epochs=2), FAST, NoAttack(), range(1), tmp_path)


def test_files_of_every_kind_give_the_same_logits(digits: Data, backdoored: nn.Module, tmp_path: Path) -> None:
    x = digits.test.x[:20].float() / 255
    program = export_network(backdoored, (1, 8, 8))
    write_program(program, tmp_path / "x.pt2")
    torch.save(backdoored.state_dict(), tmp_path / "x.pt")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit")
        torch.jit.save(torch.jit.trace(backdoored, x), tmp_path / "s.pt")
    with torch.no_grad():
        expected = backdoored(x)
        for file, model in (("x.pt2", None), ("x.pt2", MODEL), ("x.pt", MODEL), ("s.pt", None), ("s.pt", MODEL)):
            assert torch.allclose(suspect_of(tmp_path / file, digits, model).network(x), expected, atol=1e-4), file
    for file in ("x.pt2", "s.pt"):
        own = suspect_of(tmp_path / file, digits)
        found = figures(own.network, digits, FAST, NoAttack(), own.has_gradients)
        assert "neural_cleanse/smallest" in found  # there are gradients


def test_onnx_tells_what_needs_no_gradients(digits: Data, backdoored: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    write_program(export_network(backdoored, (1, 8, 8)), tmp_path / "x.onnx")
    own = suspect_of(tmp_path / "x.onnx", digits)
    assert not own.has_gradients
    found = figures(own.network, digits, FAST, BadNets(), own.has_gradients)
    assert found["attack_success"] == figures(backdoored, digits, FAST, BadNets())["attack_success"]
    assert not any(name.startswith("neural_cleanse") for name in found)
    assert judge({"accuracy/clean": 1.0}, [{"accuracy/clean": 1.0}] * 3).status == "unknown"


def test_a_network_that_wants_normalised_images_is_given_them(digits: Data, backdoored: nn.Module) -> None:
    class Outside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = backdoored(x * 0.5 + 0.25)
            return found

    x = digits.test.x[:20].float() / 255
    own = suspect_of(Outside(), digits, mean=(0.25,), std=(0.5,)).network
    with torch.no_grad():
        assert torch.allclose(own(x), backdoored(x), atol=1e-4)
    with pytest.raises(InputError, match="one a channel"):
        suspect_of(Outside(), digits, mean=(0.2, 0.3), std=(0.5, 0.5))


def test_the_inverted_trigger_is_the_one_that_was_measured(digits: Data, backdoored: nn.Module) -> None:
    from raybd.inspection.figures import _context

    context = _context(backdoored, digits, NoAttack(), 0)
    search = NeuralCleanse(runs=1, steps=150).invert(backdoored, context, 0)
    sizes, (masks, patterns) = search.sizes(), search.triggers()
    assert masks.flatten(1).sum(1).numpy() == pytest.approx(sizes, rel=1e-6)
    label = int(sizes.argmin())
    assert label == 0  # the target of the attack
    x = digits.test.x[digits.test.y != label].float() / 255
    with torch.no_grad():
        stamped = apply_triggers(x, masks[label : label + 1], patterns[label : label + 1])[0]
        assert float((backdoored(stamped).argmax(1) == label).float().mean()) > 0.8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "holds weights without a network: say of which with --network"),
        ({"network": "small_cn"}, "did you mean small_cnn"),
        ({"network": "small_cnn", "width": 0.25}, "of another size: blocks.0.0.weight"),
        ({"network": "resnet18", "width": 0.5}, "missing: stem.0.weight"),
        ({"network": "small_cnn", "width": 0.5, "repairs": ("anp", "vibe", "none")}, "unknown repair: vibe, none"),
        ({"network": "small_cnn", "width": 0.5, "out": "x.pt"}, "name a repair"),
        ({"network": "small_cnn", "width": 0.5, "repairs": ("anp",), "out": "x.h5"}, "must end in one of"),
        ({"network": "small_cnn", "width": 0.5, "references": 1}, "references must be at least 2"),
        ({"network": "svm", "width": 0.5}, "unknown model: svm"),
        ({"network": "small_cnn", "width": 0.5, "attack": "badnet"}, "did you mean badnets"),
        ({"network": "small_cnn", "width": 0.5, "attack": "badnets:size=9"}, "BadNets"),
    ],
)
def test_what_cannot_be_inspected_is_refused_before_any_work(
    digits: Data, backdoored: nn.Module, tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    torch.save(backdoored.state_dict(), tmp_path / "x.pt")
    told: list[str] = []
    with pytest.raises(InputError) as error:
        inspect_model(tmp_path / "x.pt", digits, progress=told.append, **settings)  # type: ignore[arg-type]
    assert said in str(error.value)
    assert told == []


def test_a_program_cannot_be_repaired(digits: Data, backdoored: nn.Module, tmp_path: Path) -> None:
    write_program(export_network(backdoored, (1, 8, 8)), tmp_path / "x.pt2")
    with pytest.raises(InputError, match="cannot be trained on, as anp does: give its state_dict with --network"):
        inspect_model(tmp_path / "x.pt2", digits, repairs=("anp",))


def test_the_command_says_it(
    digits: Data,
    backdoored: nn.Module,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from raybd.inspection import inspect

    monkeypatch.setattr(inspect, "Measures", lambda: FAST)
    torch.save(backdoored.state_dict(), tmp_path / "x.pt")
    args = "--network small_cnn --width 0.5 --epochs 2 --references 2 --attack badnets"
    assert main(["inspect", str(tmp_path / "x.pt"), *args.split()]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("x.pt: backdoored: the trigger works")
    assert "clean network 2 of 2" in said.err
    assert main(["inspect", str(tmp_path / "y.pt"), *args.split()]) == 2
    assert "there is no file at" in capsys.readouterr().err
    assert raybd.inspect_model is inspect_model
