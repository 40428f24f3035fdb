"""Environments that a user may be in: no home, warnings that are errors, a folder of an old store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raybd.errors import InputError, dependency_warning
from raybd.tracking.client import absolute_uri

HOME = "import os; from pathlib import Path; import raybd; print(Path.home())"
NO_HOME = "import pathlib; pathlib.Path.home = lambda: (_ for _ in ()).throw(RuntimeError('none')); import raybd"


def test_a_user_without_a_home_gets_one(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", NO_HOME], env={**os.environ, "TMPDIR": str(tmp_path)}, check=True)
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"raybd-home-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_home_is_left_alone(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", HOME], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path)


def test_a_library_s_warning_names_the_library() -> None:
    code = compile("raise DeprecationWarning('old')", "/lib/site-packages/oldlib/old.py", "exec")
    with pytest.raises(DeprecationWarning) as caught:
        exec(code)
    text = dependency_warning(caught.value)
    assert text.startswith("oldlib warns (DeprecationWarning: old)")
    assert "PYTHONWARNINGS=default" in text


def test_the_old_store_of_a_folder_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    for uri in (str(tmp_path / "mlruns"), (tmp_path / "mlruns").as_uri()):
        with pytest.raises(InputError, match=r"--tracking-uri sqlite:///mlflow.db.*migrate-filestore"):
            absolute_uri(uri)
