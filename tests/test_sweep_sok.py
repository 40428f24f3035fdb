"""The systematisation's grid as a preset: what it asks for, and what its dry run says is missing."""

import pytest

from raybd.attacks import ATTACKS
from raybd.command_line.command import main
from raybd.command_line.grid import expand, networks
from raybd.models import build_model
from sweeps import _sok, defences, ib
from sweeps._sok import Axis


@pytest.mark.parametrize("presets", [ib.PRESETS, defences.PRESETS], ids=["ib", "defences"])
def test_the_grid(presets: dict) -> None:
    options = presets["sok"]
    trials = expand(options)
    assert {trial.poison_rate for trial in trials} == {0.0, 0.005, 0.01, 0.05, 0.2}
    assert {"badnets", "blended", "wanet"} <= set(options.attack.attacks) <= set(ATTACKS)
    assert options.attack.lowers
    assert len(trials) == 5 * len(options.attack.attacks) * len(options.training.defences) * options.training.seeds


@pytest.mark.parametrize("name", _sok.MODELS.here())
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_network_of_the_grid_takes_its_images(name: str) -> None:
    (config,) = networks(ib.PRESETS["sok"].replace(model=name, input_size=32 * ("vit" in name)).network)
    assert build_model(config.name, (1, 32, 32), 10, [0.5], [0.5], input_size=config.input_size)


def test_what_is_missing_is_what_the_tables_lack() -> None:
    axis = Axis("attacks", {"BadNets": "badnets", "Dream": "dream"}, ATTACKS)
    assert (axis.here(), axis.missing()) == (("badnets",), ("Dream",))
    said = "\n".join(_sok.notes(ib.PRESETS["sok"]))
    assert "data ImageNet-1K" in said
    assert "MNIST," not in said
    assert ("AdvDoor" in said) == ("advdoor" not in ATTACKS)
    assert _sok.notes(ib.PRESETS["quick"]) == []


def test_the_dry_run_says_so_before_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    """On digits, which are always at hand."""
    args = ["--preset", "sok", "--dry-run", "--data", "digits", "--resize", "0", "--model", "small_cnn", "--seeds", "1"]
    args += ["--attacks", "badnets", "sig"]
    assert main(ib.PRESETS, ib.summarise, args, expand=ib.expand_default, notes=_sok.notes) == 0
    said = capsys.readouterr().out
    assert "this is digits with small_cnn" in said
    assert "missing here: data ImageNet-1K" in said
    assert "sig: a poison rate of 0.2 is too large: lowered to 0.0986" in said
    assert said.index("missing here") < said.index("of one core")
