"""The documents' code runs as it stands."""

import importlib
import re
import shlex
import sys
from dataclasses import fields, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

import analysis
import raybd
from raybd.attacks import ATTACKS, Attack
from raybd.cli import main as raybd_main
from raybd.command_line import dry_run
from raybd.command_line.grid import expand
from raybd.contracts.attacks import check_attack
from raybd.defences import DEFENCES
from raybd.defences.none import NoDefence
from raybd.metrics import METRICS
from raybd.models import Classifier, build_model
from raybd.trials.base import TrialResult, TrialSession
from raybd.trials.config import TrialConfig
from raybd.trials.run import run_trial
from raybd.types import Data, Report
from sweeps.ib import PRESETS, summarise
from tests.image_folders import write_planted

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def test_the_attack_of_the_page_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = blocks("docs/adding.md", "python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    (tmp_path / "stripe.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    from stripe import Stripe  # type: ignore[import-not-found]

    monkeypatch.setitem(ATTACKS, "stripe", Stripe)
    options = PRESETS["quick"].replace(attacks=("stripe",), poison_rates=(0.05,), seeds=1)
    assert {config.params["attack.name"] for config in expand(options)} == {"stripe"}
    check_attack(Stripe())


def test_the_defence_and_the_metric_of_the_page_make_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Data
) -> None:
    _, defence, metric, _ = blocks("docs/adding.md", "python")
    (tmp_path / "of_the_page.py").write_text(f"{defence}\n{metric}")
    monkeypatch.syspath_prepend(str(tmp_path))
    page = importlib.import_module("of_the_page")
    monkeypatch.setitem(DEFENCES, "label_noise", page.LabelNoise)
    monkeypatch.setitem(METRICS, "margin", page.Margin)
    train_config = {
        "attacks": ("badnets",),
        "poison_rates": (0.05,),
        "seeds": 1,
        "epochs": (3,),
        "metrics": ("margin",),
    }
    train_config |= {"widths": (0.5,), "weight_decays": (5e-4,)}
    options = PRESETS["quick"].replace(noise=0.0, defences=("none", "label_noise:share=0.9"), **train_config)
    ends = {}
    for config in expand(options):
        ends[config.params["defence.name"]] = run_trial(config, digits).metrics
    assert ends["none"]["accuracy/clean"] > ends["label_noise"]["accuracy/clean"] + 0.2
    assert all("margin/wanted" in found for found in ends.values())


def test_the_networks_of_the_pages_tell_their_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "network_of_the_page.py").write_text(blocks("docs/adding.md", "python")[3])
    (tmp_path / "backbone_of_the_page.py").write_text(blocks("docs/vibe.md", "python")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, size in (("network_of_the_page:net", 32), ("backbone_of_the_page:backbone", 512)):
        model = build_model(name, (1, 8, 8), 10, [0.0], [1.0])
        assert isinstance(model, Classifier)
        assert model.feature_size == size
    assert build_model("network_of_the_page:net", (1, 8, 8), 10, [0.0], [1.0], noise=0.4)


ADAPTIVE = ("view_invariant", "many_triggers", "placed")  # measured on digits, and against VIBE
ON_DIGITS = (*ADAPTIVE, "advdoor", "input_aware", "narcissus", "ssba")  # measured there alone


def test_the_page_of_attacks_names_every_attack_and_setting() -> None:
    page = (ROOT / "docs" / "attacks.md").read_text()
    common = {f.name for f in fields(Attack)}
    for name, attack in ATTACKS.items():
        if name == "none":
            continue
        section = page.split(f"\n### {name}\n")[1].split("\n### ")[0]
        assert (ROOT / "docs" / "attacks" / f"{name}.png").exists()
        measured = page.split("## How well they take hold")[1].split("## One by one")[0]
        sets = 1 if name in ON_DIGITS else 2
        assert measured.count(f"\n| {name} | ") == 3 * sets  # three rates on each data set
        assert name not in ADAPTIVE or f"\n| `{name}" in page.split("## Against VIBE")[1].split("## One by one")[0]
        assert f"(attacks/{name}.png)" in section
        for setting in fields(attack):
            if setting.name not in common:
                assert f"| `{setting.name}` | `{setting.default!r}` |" in section
        assert all(f"`{name}:{preset}`" in section for preset in attack.presets)


def made_metrics(config: TrialConfig) -> dict[str, float]:
    """Of a trial whose backdoor takes hold wherever it is poisoned without a defence."""
    success = 0.9 if config.poison_rate and isinstance(config.defence, NoDefence) else 0.02
    apart = 0.01 * (config.seed % 3)
    return {"accuracy/clean": 0.97 + apart / 5, "attack_success": success + apart, "accuracy/robust": 0.1 - apart}


def test_the_readme_s_questions_meet_the_statuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], digits: Data
) -> None:
    """The README's own blocks, on a sweep of the same name with made numbers; CI runs them on the real one."""
    mpl.use("Agg")
    from raybd.command_line.command import main
    from raybd.execution import attempt

    args = (
        "--inline --epochs 1 --seeds 3 --weight-decays 5e-4 0.05 --poison-rates 0 0.03 --defences none vibe "
        "--noise 0 --metrics stealth"
    )
    once = run_trial(expand(PRESETS["quick"].replace(epochs=(1,), metrics=("stealth",), seeds=1))[0], digits)

    def made(config: TrialConfig, images: Data, session: TrialSession) -> TrialResult:
        session.report(Report(1, made_metrics(config)))
        return replace(once, metrics=made_metrics(config))

    monkeypatch.setattr(attempt, "run_checked", made)
    monkeypatch.setattr(attempt, "save_artifacts", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(PRESETS, summarise, args.split()) == 0
    names: dict[str, object] = {}
    for block in blocks("README.md", "python"):
        exec(compile(block, "README.md", "exec"), names)
    said = capsys.readouterr().out
    assert "\ndefended\n" in said
    assert all(f"\n{status} at attack=badnets" in said for status in ("backdoored", "uncertain", "unmeasured"))
    assert "poison_rate=0.02 was not measured" in said
    frame = names["m"].to_frame()  # type: ignore[attr-defined]
    assert len(frame) == 2 * 2 * 2 * 2


def test_the_study_of_the_page_answers_in_three_sentences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = [block for block in blocks("docs/vibe.md", "python") if "vibe_study" in block]
    exec(compile(code, "docs/vibe.md", "exec"), {})
    said = capsys.readouterr().out
    for begin in ("The most robust configuration is vibe:winner (", "It costs ", "It fails against "):
        assert [line for line in said.splitlines() if line.startswith(begin)]
    printed = [block for block in blocks("docs/vibe.md", "text") if "The most robust" in block]
    assert [line for line in printed[0].splitlines() if line not in said] == []  # the page prints what it answers


def test_the_readme_is_short_and_its_commands_are_of_sweeps_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    assert len(text.split()) <= 1100
    sweeps = set(re.findall(r"`raybd sweep (\w+)", text))
    assert sweeps == {path.stem for path in (ROOT / "sweeps").glob("[!_]*.py")}


def test_the_reference_names_every_public_name() -> None:
    reference = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.rst"))
    for package in (raybd, analysis):
        assert all(f"{package.__name__}.{name}" in reference for name in package.__all__)


def test_the_tests_that_the_pages_name_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for file, name in re.findall(r"(tests/\w+\.py)::(\w+)", page.read_text()):
            assert f"\ndef {name}(" in (ROOT / file).read_text(), f"{page.name} names {file}::{name}"
    assert (ROOT / "docs" / "reliability.md").read_text().count("::") > 20


def test_ci_runs_what_the_readme_names() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert all(f"make {target}" in ci for target in ("lint", "types", "test", "sweep"))


def commands(page: str, section: str) -> list[str]:
    """The commands of a section of a page, each a line of its sh blocks."""
    text = (ROOT / page).read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in found for line in block.splitlines()]


def test_the_commands_of_names_of_classes_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], digits: Data
) -> None:
    splits = {"train": digits.train, "test": digits.test}
    kept = {name: images.take((images.y < 4).nonzero()[:, 0]) for name, images in splits.items()}
    arrays = {f"x_{name}": images.x.repeat(4, 1, 1, 1).numpy() for name, images in kept.items()}
    arrays |= {f"y_{name}": images.y.repeat(4).numpy() for name, images in kept.items()}
    np.savez(tmp_path / "animals.npz", class_names=np.array(["cat", "bird", "dog", "horse"]), **arrays)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "_time", lambda *_: "")  # which measures
    for line in commands("docs/own.md", "Names of classes"):
        assert raybd_main(shlex.split(line)[1:]) == 0
        assert re.search(r"classes: .*\b(bird|cat)\b", capsys.readouterr().out)


def test_the_page_of_coverage_names_every_method_and_none_that_is_not_there() -> None:
    page = (ROOT / "docs/coverage.md").read_text()
    own = {name for line in page.splitlines() if line.startswith("| ") for name in re.findall(r"`(\w+)`", line)}
    tables = {**ATTACKS, **DEFENCES, **METRICS}
    assert own <= set(tables)
    besides = {"none", "invisible_grid", *METRICS} - {"beatrix", "ibd_psc", "scale_up", "strip", "ted", "noise_votes"}
    assert {*ATTACKS, *DEFENCES, *METRICS} - besides <= own


def test_the_suspected_data_of_the_page_are_audited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], digits: Data
) -> None:
    images = digits.train.take((digits.train.y < 4).nonzero()[:, 0])
    names = write_planted(images, 4, 30, 1, tmp_path / "suspected")
    (tmp_path / "planted.txt").write_text("\n".join(names))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYBD_DATA", str(tmp_path))
    (line,) = commands("docs/own.md", "Data that you suspect")
    assert raybd_main([*shlex.split(line)[1:], "--epochs", "2", "--pretrain-epochs", "1"]) == 0
    written = {path.name for path in (tmp_path / "audited").iterdir()}
    assert written == {"ranking.csv", "suspects.png", "clean_subset.txt", "verdict.txt"}
    (code,) = [block for block in blocks("docs/own.md", "python") if "import audit" in block]
    assert "truth unknown" in capsys.readouterr().out
    exec(compile(code, "docs/own.md", "exec"), {})
    verdict = capsys.readouterr().out.splitlines()[0]
    count = int(verdict.split()[0])  # of the 30; another processor may count one more or less
    assert 20 <= count <= 32
    assert verdict.removeprefix(str(count)) in code  # the page prints what it answers


def test_the_methods_of_one_s_own_of_the_page_pass_their_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    title = "Attacks, defences, measures and data sets of your own"
    section = (ROOT / "docs" / "own.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(dry_run, "_time", lambda *_: "")  # which measures
    lines = commands("docs/own.md", title)
    for line in lines:
        assert raybd_main(shlex.split(line)[1:]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert said.count("checks passed") == len(lines) - 1
    assert all(f"own {kind} mine:" in said for kind in ("attack", "defence", "metric", "data set", "model"))
    sys.modules.pop("mine")
