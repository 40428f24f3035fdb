"""`raybd.watch` in a training that knows nothing else of raybd."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import raybd
from raybd.early_warning import write_warning
from raybd.errors import InputError
from raybd.watching import Watcher
from tests.test_docs import blocks
from tests.test_warning_model import made

END = 'print("weights", float(sum(weight.double().sum() for weight in net.parameters())), net.training)\n'


def test_a_script_that_knows_nothing_else_of_raybd_prints_the_warning_and_trains_as_without(tmp_path: Path) -> None:
    (script,) = blocks("docs/signal.md", "python")

    def run(name: str, code: str) -> list[str]:
        (tmp_path / name).write_text(code + END)
        command = [sys.executable, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout.splitlines()

    without = "".join(
        line for line in script.splitlines(keepends=True) if "raybd" not in line and "watcher" not in line
    )
    plain, (line, *rest) = run("plain.py", without), run("watched.py", script)
    assert line.startswith("raybd: after epoch 2 of 10: a backdoor takes hold with probability 0.")
    assert rest == plain


class Plain(nn.Module):
    """A network of images with pixels from `low` to `high`, whose weights are always the same."""

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.low, self.high = low, high
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 12), nn.ReLU())
        self.out = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.body((x - self.low) / (self.high - self.low)))
        return logits


def images() -> tuple[Tensor, Tensor]:
    x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    x[0], x[1] = 0, 1  # the whole range is there
    return (x * 255).round() / 255, torch.arange(200) % 4


def watched(model: nn.Module, data: object, path: Path) -> Watcher:
    found = raybd.watch(model, data, epochs=5, warning=write_warning([made()], path / "w.json"))  # type: ignore[arg-type]
    assert found.step() == pytest.approx(0.5)
    return found


def test_the_measures_do_not_change_with_the_range_of_pixels_nor_with_the_form_of_the_data(tmp_path: Path) -> None:
    x, y = images()
    plain = watched(Plain(), (x, y), tmp_path).measures
    assert len(plain) == 13
    assert watched(Plain(-3, 5), (x * 8 - 3, y), tmp_path).measures == pytest.approx(plain, abs=1e-5)
    assert watched(Plain(), TensorDataset(x, y), tmp_path).measures == pytest.approx(plain, abs=1e-12)
    assert watched(Plain(0, 255), ((x * 255).byte().float(), y), tmp_path).measures == pytest.approx(plain, abs=1e-5)


def test_it_speaks_once_and_says_when_it_abstains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = watched(Plain(), images(), tmp_path)
    assert [found.step() for _ in range(4)] == [None] * 4
    assert capsys.readouterr().out == (
        "raybd: after epoch 1 of 5: a backdoor takes hold with probability 0.50 (not sure: it abstains)\n"
    )


@pytest.mark.parametrize(
    ("model", "data", "epochs", "said"),
    [
        (Plain(), (torch.rand(9, 8, 8), torch.arange(9)), 5, r"images \(9, 8, 8\) and labels \(9,\)"),
        (Plain(), (torch.rand(9, 1, 8, 8), torch.arange(8)), 5, r"and labels \(8,\)"),
        (Plain(), [], 5, r"got images \(0,\)"),
        (Plain(), images(), 0, "epochs must be at least 1, got 0"),
        (nn.Sequential(Plain(), nn.Softmax(1)), images(), 5, "without a softmax"),
        (Plain(), (torch.rand(9, 3, 8, 8), torch.arange(9)), 5, "cannot take images of shape"),
    ],
)
def test_what_cannot_be_watched_is_refused_at_once(model: nn.Module, data: object, epochs: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        raybd.watch(model, data, epochs=epochs)  # type: ignore[arg-type]
