"""Every built-in defence is held to what `raybd check` asks of one's own."""

from collections.abc import Iterator

import pytest

from raybd.contracts.defences import CHECKS, Case
from raybd.contracts.promises import made_images
from raybd.defences import DEFENCES, Defence, dbd
from raybd.plugins import parse
from raybd.training import TrainConfig

SHORT = TrainConfig(epochs=3, batch_size=32, learning_rate=0.02)
CHEAP = {
    "anp": "anp:steps=2",
    "asd": "asd:seeds=2,added=3",
    "dbd": "dbd:pretrain_epochs=1",
    "fine_pruning": "fine_pruning:steps=2",
    "fine_tuning": "fine_tuning:steps=2",
    "ft_sam": "ft_sam:steps=2",
    "ibau": "ibau:rounds=2,ascents=1",
    "nab": "nab:pretrain_epochs=1",
    "nad": "nad:steps=2,teacher_steps=2",
    "neural_cleanse": "neural_cleanse:steps=2,inversion_steps=2",
    "npd": "npd:steps=2,warm_steps=1",
    "sau": "sau:steps=2,ascents=1",
    "spectral": "spectral:first_epochs=1",
    "vibe": "vibe:pretrain_epochs=1,iterations=4,e_steps=1",
}


@pytest.fixture(scope="module", params=DEFENCES)
def defence(request: pytest.FixtureRequest) -> Iterator[Defence]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dbd, "ENOUGH", 4)  # steps of a head, which is no setting
        yield parse("defence", DEFENCES, CHEAP.get(request.param, request.param))


@pytest.mark.parametrize("check", CHECKS)
def test_every_defence_keeps_its_promises(defence: Defence, check: str) -> None:
    CHECKS[check](Case(defence, images=made_images(96), trusted=made_images(40, seed=1), train_config=SHORT))
