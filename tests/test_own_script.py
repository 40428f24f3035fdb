"""The section of docs/own.md about a training script of one's own runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raybd.tracking import load_runs

PAGE = Path(__file__).parent.parent / "docs" / "own.md"


@pytest.mark.long
def test_the_script_and_the_function_of_the_page_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    section = PAGE.read_text().split("\n## A training script of your own\n")[1].split("\n## ")[0]
    script, function = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    (command,) = re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    (tmp_path / "my_recipe.py").write_text(script)
    done = subprocess.run(command.replace("raybd ", f"{sys.executable} -m raybd.cli ", 1), shell=True, check=False)
    said = capfd.readouterr()
    assert done.returncode == 0, said.err
    text = " ".join(said.out.split())
    assert re.search(r"badnets (does not take hold|takes hold)", text)
    assert re.search(r"cheapest change|No change of the knobs|no knob needs a change|No setting of the knobs", text)
    runs = load_runs("resist")
    assert (runs["status"] == "FINISHED").all()
    assert 15 <= len(runs) <= 30
    (tmp_path / "page.py").write_text(function)
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(function, str(tmp_path / "page.py"), "exec"), names)
    assert "badnets" in capfd.readouterr().out
    assert names["found"].edges[0].kind in ("edge", "always")  # type: ignore[attr-defined]
