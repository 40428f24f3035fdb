"""docs/notebook.md runs as it stands, and prints what it shows; the public names of raybd."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import raybd

PAGE = (Path(__file__).parent.parent / "docs" / "notebook.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```)?", PAGE, re.DOTALL | re.MULTILINE)
TOLERANCE = 0.1  # of shares: networks trained on other processors differ


def assert_alike(printed: str, shown: str) -> None:
    """Equal words; numbers with a decimal point, as shares are, within TOLERANCE."""
    words, expected = printed.split(), shown.split()
    assert len(words) == len(expected), printed
    for word, other in zip(words, expected, strict=True):
        share = re.fullmatch(r"[01]\.\d+", other)
        assert float(word) == pytest.approx(float(other), abs=TOLERANCE) if share else word == other, printed


def test_the_page_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    names: dict[str, object] = {}
    assert len(BLOCKS) == 7
    for code, shown in BLOCKS:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, "docs/notebook.md", "exec"), names)
        lines = [line for line in printed.getvalue().splitlines() if not line.startswith("done ")]  # progress
        assert_alike("\n".join(lines), shown)


def test_the_comparison_tells_what_differs() -> None:
    assert_alike("acc 0.95 of 3", "acc 0.98 of 3")
    for wrong in ("acc 0.75 of 3", "acc 0.98 of 4", "asr 0.98 of 3", "acc 0.98"):
        with pytest.raises((AssertionError, ValueError)):
            assert_alike(wrong, "acc 0.98 of 3")


def test_every_public_name_is_there_and_no_other() -> None:
    assert set(raybd.__all__) <= set(dir(raybd))
    assert all(getattr(raybd, name) is not None for name in raybd.__all__)
    assert {"badnets", "wanet"} <= set(raybd.ATTACKS)
    with pytest.raises(AttributeError, match="module 'raybd' has no attribute 'trial'"):
        _ = raybd.trial
