"""Methods of other people: MODULE:CLASS and entry points of every kind, from the command line to the record."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import raybd.data
from raybd.attacks import ATTACKS, parse
from raybd.cli import main as raybd_main
from raybd.command_line.check import check, kind_of
from raybd.command_line.command import main
from raybd.defences import DEFENCES
from raybd.errors import InputError
from raybd.execution import own_modules, ray_cluster
from raybd.execution.plan import plan_sweep
from raybd.execution.proposers import PROPOSERS
from raybd.execution.resources import Resources
from raybd.metrics import METRICS
from raybd.plugins import describe, name_of, own, spec, split
from raybd.plugins import parse as parse_plugin
from raybd.tracking import load_record, load_runs
from raybd.training import TrainConfig
from raybd.trials.config import ModelConfig, TrialConfig
from raybd.trials.rerun import rerun
from raybd.trials.validate import prepare
from sweeps.ib import PRESETS, summarise
from tests.own_package import MODULES, install, metadata
from tests.sweeping import run_on_ray

SHORT = TrainConfig(epochs=1, batch_size=32)


def forget() -> None:
    """As in a process that has imported none of the package's modules."""
    for name in [
        name
        for name in sys.modules
        if name.partition(".")[0] in ("own_methods", "elsewhere", "mine", "helper_of_elsewhere")
    ]:
        del sys.modules[name]
    for known in (own._modules, own._names, own._told):
        known.clear()  # type: ignore[attr-defined]
    own.all_entry_points.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which the package is installed, on the path."""
    forget()
    folder = tmp_path / "packages"
    install(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions within a second are one to its cache
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    yield folder
    forget()


def planned(**settings: object) -> TrialConfig:
    config = TrialConfig(**{"data": "blobs", "train": SHORT} | settings)  # type: ignore[arg-type]
    return prepare([config])[0][0]


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("badnets", "badnets", ""),
        ("badnets:vibe", "badnets", "vibe"),
        ("badnets:vibe,size=2", "badnets", "vibe,size=2"),
        ("stripe", "stripe", ""),
        ("stripe:strong", "stripe", "strong"),
        ("stripe:column=2,by=3", "stripe", "column=2,by=3"),
        ("my.attacks:Stripe", "my.attacks:Stripe", ""),
        ("mine:Stripe:strong,column=2", "mine:Stripe", "strong,column=2"),
        ("my.attacks:Stripe:by=1e-3,names=[a:b,c]", "my.attacks:Stripe", "by=1e-3,names=[a:b,c]"),
        ("bandets:size=3", "bandets", "size=3"),
    ],
)
def test_the_grammar(package: Path, text: str, name: str, settings: str) -> None:
    assert split("attack", ATTACKS, text) == (name, settings)


def test_one_class_under_three_spellings(package: Path) -> None:
    attacks = [parse(text) for text in ("stripe:strong", "own_methods.attacks:Stripe:strong", "stripe:by=200")]
    assert attacks[0] == attacks[1] == attacks[2]
    assert spec(ATTACKS, attacks[1]) == {
        "name": "stripe", "target": 0, "labels": "all_to_one", "victims": "non_target", "column": 0, "by": 200.0
    }  # fmt: skip
    assert describe(ATTACKS, attacks[1]) == "stripe:by=200.0"
    assert name_of(ATTACKS, parse("own_methods.attacks:Idle")) == "own_methods.attacks:Idle"
    config = planned(attack=attacks[0])
    assert TrialConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stirpe", "unknown attack: stirpe"),
        ("broken", "attack broken cannot be imported: No module named 'broken_methods'"),
        ("own_methods.attacks:Nope", "has no attribute 'Nope'"),
        ("own_methods.attacks:brighter", "is no class but function"),
        ("own_methods.defences:LabelNoise", "is no class derived from raybd.attacks.Attack"),
        ("own_methods.bad:Bare", "is no dataclass"),
        ("own_methods.bad:Needs", "has settings without a default: width"),
        ("own_methods.bad:Abstract", "lacks stamp"),
        ("own_methods.exits:Attack", "it ends the program (SystemExit: 3)"),
        ("bandets:vibe", "No module named 'bandets'; unknown name: bandets"),
        ("own_methods.attacks:Stripe:width=3", "unknown setting of attack own_methods.attacks:Stripe: width"),
        ("own_methods.attacks:Stripe:by=thick", "by cannot be 'thick'"),
        ("badnets:Stripe", "unknown preset of badnets: Stripe"),
        ("badnets:name=own_methods.exits:Attack", "the name stands before the settings"),
        ("stripe:name=[]", "the name stands before the settings"),
    ],
)
def test_what_is_no_attack_is_refused_with_the_reason(package: Path, text: str, said: str) -> None:
    (package / "own_methods" / "bad.py").write_text(
        "from dataclasses import dataclass\nfrom raybd.attacks import Attack\n"
        "class Bare(Attack):\n    width: int = 3\n    def stamp(self, x, trigger): return x\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Needs(Attack):\n    width: int\n    def stamp(self, x, trigger): return x\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Abstract(Attack):\n    width: int = 3\n"
    )
    (package / "own_methods" / "exits.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(InputError) as refused:
        parse(text)
    assert said in str(refused.value)


def test_a_name_of_raybd_s_stays_raybd_s_and_two_packages_of_one_name_are_told(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert type(parse("badnets")).__module__ == "raybd.attacks.badnets"
    assert own.refused_names("attack", ATTACKS) == [
        "attack badnets is raybd's own: that of own_methods is refused under that name "
        "(it is own_methods.attacks:Stripe)"
    ]
    metadata(package, "other_methods", "[raybd.attacks]\nstripe = other_methods:Stripe\n")
    own.all_entry_points.cache_clear()
    with pytest.raises(InputError, match="attack stripe is offered by that of .*_methods and that of .*_methods"):
        parse("stripe")
    assert name_of(ATTACKS, parse("own_methods.attacks:Stripe")) == "own_methods.attacks:Stripe"


def test_broken_packages_break_nothing_that_does_not_name_them(package: Path) -> None:
    assert set(own.entry_points("attack")) == {"stripe", "badnets", "broken"}
    assert raybd_main(["sweep", "ib", *PLAIN, "--dry-run"]) == 0
    assert "own_methods.attacks" not in sys.modules


PLAIN = "--data digits[0,1] --epochs 1 --seeds 1 --noise 0 --metrics stealth --widths 0.25 --poison-rates 0.1".split()


def test_the_code_makes_the_key_and_names_and_places_do_not(package: Path) -> None:
    first = planned(attack=parse("stripe"))
    assert first.key == planned(attack=parse("own_methods.attacks:Stripe")).key
    assert first.key != planned(attack=parse("own_methods.attacks:Stripe:column=1")).key
    (package / "mine.py").write_text(MODULES["metrics"].replace("torch\n", "torch  # mine\n"))
    (package / "elsewhere.py").write_text((package / "mine.py").read_text())
    texts = ("mine:Margin", "elsewhere:Margin", "mine:Careless")
    keys = [planned(metrics=(parse_plugin("metric", METRICS, text),)).key for text in texts]
    assert keys[0] == keys[1] != keys[2]
    forget()
    (package / "own_methods" / "pixels.py").write_text(MODULES["pixels"].replace("+=", "-="))
    changed = planned(attack=parse("stripe"))
    assert changed.key != first.key  # a helper that it imports has changed
    assert changed.params["attack.source.content"] != first.params["attack.source.content"]


def test_every_part_of_a_trial_has_its_code_in_the_key(package: Path) -> None:
    plain = planned()
    keys = {
        plain.key,
        planned(defence=parse_plugin("defence", DEFENCES, "label_noise")).key,
        planned(metrics=(parse_plugin("metric", METRICS, "margin"),)).key,
        planned(model=ModelConfig(name="own_net")).key,
        planned(attack=parse('multi:attacks=["stripe","badnets"]')).key,
    }
    assert len(keys) == 5
    assert (
        planned(model=ModelConfig(name="own_net")).key == planned(model=ModelConfig(name="own_methods.models:net")).key
    )
    assert planned(data="own_methods.data:Blobs").key == plain.key
    for name in ("defences", "metrics", "models", "attacks"):
        file = package / "own_methods" / f"{name}.py"
        file.write_text(file.read_text() + "\n# changed\n")
    forget()
    again = {
        planned(defence=parse_plugin("defence", DEFENCES, "label_noise")).key,
        planned(metrics=(parse_plugin("metric", METRICS, "margin"),)).key,
        planned(model=ModelConfig(name="own_net")).key,
        planned(attack=parse('multi:attacks=["stripe","badnets"]')).key,
    }
    assert not again & keys


def test_data_of_one_s_own(package: Path, tmp_path: Path) -> None:
    blobs = raybd.data.load("blobs", tmp_path / "root")
    assert blobs.classes == ("dark", "grey", "light")
    assert raybd.data.load("own_methods.data:Blobs", tmp_path / "root").fingerprint == blobs.fingerprint
    part = raybd.data.load("blobs:side=6[light,dark]", tmp_path / "root")
    assert (part.train.shape, part.classes) == ((1, 6, 6), ("light", "dark"))
    file = package / "own_methods" / "data.py"
    file.write_text(file.read_text().replace("80 *", "90 *"))
    forget()
    assert raybd.data.load("blobs", tmp_path / "root").fingerprint != blobs.fingerprint  # the cache follows the code
    with pytest.raises(InputError, match="unknown setting of data set blobs: size"):
        raybd.data.load("blobs:size=6", tmp_path / "root")


def test_a_sweep_of_methods_of_one_s_own(package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = f"sqlite:///{tmp_path}/m.db"
    args = (
        "--data blobs --model own_net --attacks stripe:column=3 --metrics margin:scale=2 --noise 0 --epochs 2".split()
    )
    args += "--defences none own_methods.defences:LabelNoise --weight-decays 5e-4 --poison-rates 0 0.1 0.2".split()
    args += ["--seeds", "1", "--epochs", "2", "--inline", "--tracking-uri", store]
    assert main(PRESETS, summarise, [*args, "--dry-run"]) == 0
    said = capsys.readouterr()
    for kind, name in (("attack", "stripe"), ("defence", "label_noise"), ("metric", "margin"), ("model", "own_net")):
        assert f"own {kind} {name}: {package}/own_methods/" in said.out
    assert "attack badnets is raybd's own" in said.err
    assert main(PRESETS, summarise, [*args, "--proposer", "until:success=0.0"]) == 0
    runs = load_runs("ib", store)
    assert len(runs) == 1  # it stopped at the first, of which an attack success of 0 was enough
    assert main(PRESETS, summarise, args) == 0
    runs = load_runs("ib", store)
    assert len(runs) == 6
    assert set(runs["params.attack.name"]) == {"stripe"}
    assert set(runs["params.defence.name"]) == {"none", "label_noise"}
    assert runs["metrics.margin/wanted"].notna().all()
    record = load_record(runs[runs["params.poison_rate"] == "0.1"]["run_id"].iloc[0], store)
    assert record.config["contents"].keys() >= {"attack.source", "metrics.margin.source", "model.name"}
    assert rerun(record).different == []


@pytest.mark.long
@pytest.mark.ray
def test_workers_of_a_ray_have_it_or_say_that_they_lack_it(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    config = TrialConfig(
        data="blobs", attack=parse("stripe"), model=ModelConfig(width=0.25), train=SHORT, poison_rate=0.1,
        defence=parse_plugin("defence", DEFENCES, "label_noise"), metrics=(parse_plugin("metric", METRICS, "margin"),),
    )  # fmt: skip
    plan = plan_sweep("own", [config], tmp_path / "r", f"sqlite:///{tmp_path}/m.db")
    result = run_on_ray(plan, Resources(gpus=0.0, at_once=1), "local")
    assert result.failures == []
    assert load_runs("own", f"sqlite:///{tmp_path}/m.db")["metrics.margin/wanted"].notna().all()

    later = [planned(attack=parse("stripe"), poison_rate=0.1, seed=seed) for seed in (1, 2)]
    plan = plan_sweep("later", later, tmp_path / "r", f"sqlite:///{tmp_path}/m.db")
    monkeypatch.setattr(ray_cluster, "own_variables", dict)
    ray.shutdown()  # workers that begin anew
    with pytest.raises(InputError, match=r"workers on .* lack own_methods.attacks: ModuleNotFoundError"):
        run_on_ray(plan, Resources(gpus=0.0, at_once=1), "local")
    monkeypatch.setattr(own_modules, "check_nodes", lambda: None)  # a worker of a node that came later
    result = run_on_ray(plan, Resources(gpus=0.0, at_once=1), "local")
    assert [outcome.permanent for outcome in result.failures] == [True, True]
    assert all("a worker cannot make the trial: attack stripe cannot be imported" in o.error for o in result.failures)


def test_what_travels_to_other_machines(package: Path) -> None:
    assert own_modules.own_packages() == []
    parse("stripe")
    parse_plugin("proposer", PROPOSERS, "until")
    assert own_modules.own_packages() == [package / "own_methods"]
    (package / "elsewhere.py").write_text("import helper_of_elsewhere\n" + MODULES["attacks"])
    (package / "helper_of_elsewhere.py").write_text("")
    parse("elsewhere:Stripe")
    single = [package / f"{name}.py" for name in ("elsewhere", "helper_of_elsewhere")]
    assert set(own_modules.own_packages()) == {package / "own_methods", *single}
    with own_modules.own_environment() as environment:
        (sent,) = map(Path, environment["py_modules"])
        names = {path.relative_to(sent).as_posix() for path in sent.glob("*/*")}
        assert names == {"0/own_methods", "0/elsewhere.py", "0/helper_of_elsewhere.py"}
    assert not sent.exists()
    assert own.names_in_use() == {
        ("attack", "stripe"): "own_methods.attacks:Stripe",
        ("proposer", "until"): "own_methods.proposers:UntilItTakesHold",
    }
    raybd.data.load("blobs")
    told, config = own.names_in_use(), planned(attack=parse("stripe"))
    forget()
    for info in package.glob("*.dist-info/entry_points.txt"):
        info.unlink()  # as where the modules alone have travelled
    with pytest.raises(InputError, match="unknown attack: stripe"):
        parse("stripe")
    own.use_names(told)
    assert name_of(ATTACKS, parse("stripe")) == "stripe"
    assert TrialConfig.from_dict(config.to_dict()).key == config.key
    assert own_modules.problems_here(["own_methods.attacks", "own_methods.nowhere"]) == [
        "own_methods.nowhere: ModuleNotFoundError: No module named 'own_methods.nowhere'"
    ]


@pytest.mark.parametrize(
    ("text", "kind", "failed"),
    [
        ("stripe:column=3", "attack", set()),
        ("own_methods.attacks:Idle", "attack", {"exact", "verified", "all_to_all"}),
        ("label_noise", "defence", set()),
        ("own_methods.defences:Forgetful", "defence", {"images kept", "seed", "resumes"}),
        ("margin", "metric", set()),
        ("own_methods.metrics:Careless", "metric", {"numbers", "again", "network kept"}),
        ("blobs:side=6", "data set", set()),
        ("own_methods.data:Moody", "data set", {"again"}),
        ("own_net", "model", set()),
        ("own_methods.models:flat", "model", {"logits", "seed", "each image alone", "trains"}),
        ("until", "proposer", set()),
        ("own_methods.proposers:Endless", "proposer", {"one by one", "in parallel"}),
        ("broken", "attack", {"loads"}),
        ("label_noise:share=lots", "defence", {"loads"}),
    ],
)
def test_check_finds_what_is_broken(package: Path, text: str, kind: str, failed: set[str]) -> None:
    assert kind_of(text) == kind
    lines = list(check(kind, text))
    assert {line.name.partition(",")[0] for line in lines if not line.passed} == failed
    assert all(line.said for line in lines)


@pytest.mark.parametrize(
    ("kind", "text"), [("metric", "stealth"), ("metric", "strip:blends=2,points=8"), ("model", "small_cnn")]
)
def test_raybd_s_own_keep_the_promises(kind: str, text: str) -> None:
    assert [line for line in check(kind, text) if not line.passed] == []


def test_the_command_check(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert raybd_main(["check", "own_methods.proposers:UntilItTakesHold:success=0.3"]) == 0
    said = capsys.readouterr().out
    assert "passed  in parallel: " in said
    assert said.endswith("all 4 checks passed\n")
    assert raybd_main(["check", "own_methods.proposers:Endless"]) == 1
    assert capsys.readouterr().out.endswith("2 of 4 checks failed\n")
    assert raybd_main(["check", "own_methods.nowhere:Attack"]) == 1
    assert "FAILED  loads: own_methods.nowhere:Attack cannot be imported" in capsys.readouterr().out
    assert raybd_main(["check", "own_methods.attacks:dataclass", "--kind", "attack"]) == 1
    assert "is no class but function" in capsys.readouterr().out
