"""Modules of other people that trials need: sent to the workers of a Ray, and looked for there before any trial."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from raybd.errors import InputError
from raybd.plugins.own import modules_in_use
from raybd.utils.source_files import INSTALLED, source_folder

SENT = "raybd_own_code"  # a folder that workers unpack: in it a folder for each one on the path here
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".git", ".venv")


def own_packages() -> list[Path]:
    """The files and folders that hold the modules in use, and what these import from beside them."""
    return list(dict.fromkeys(path for name in modules_in_use() if name in sys.modules for path in source_folder(name)))


def own_variables() -> dict[str, str]:
    """The variables by which workers on this machine find the modules in use where they lie; none where none is."""
    folders = dict.fromkeys(str(path.parent) for path in own_packages())
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([*folders, *([before] if before else [])])} if folders else {}


@contextmanager
def own_environment() -> Iterator[dict[str, Any]]:
    """The parts of a runtime environment by which Ray sends the modules in use to workers on other machines; {} where
    none is. Ray has read them when the connection stands, and the copies are deleted."""
    packages = own_packages()
    if not packages:
        yield {}
        return
    with TemporaryDirectory(prefix="raybd-code-") as place:
        for number, base in enumerate(dict.fromkeys(path.parent for path in packages)):
            installed = [part for part in base.parts if part in INSTALLED][:1]  # counts for the hash of the code
            for path in (path for path in packages if path.parent == base):
                _copy(path, Path(place, SENT, str(number), *installed, path.name))
        hook = f"{extend_path.__module__}.{extend_path.__qualname__}"
        yield {"py_modules": [str(Path(place, SENT))], "worker_process_setup_hook": hook}


def extend_path() -> None:
    """Make what was sent importable; in a worker, when it starts."""
    found = find_spec(SENT)
    for folder in (Path(one) for one in (found and found.submodule_search_locations) or ()):
        for base in folder.iterdir():
            inner = [base / name for name in INSTALLED if (base / name).is_dir()]
            sys.path.append(str(inner[0] if inner else base))


def check_nodes() -> None:
    """Refuse a Ray with a node whose workers cannot import a module in use; where none is in use, it is not asked.

    Raises:
        InputError: with each node, and what its workers lack.
    """
    if not (modules := [name for name in modules_in_use() if name != "__main__"]):
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    looking = ray.remote(num_cpus=0)(problems_here)
    asked = {
        node["NodeManagerAddress"]: looking.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(modules)
        for node in ray.nodes()
        if node["Alive"]
    }
    answers: dict[str, list[Any]] = {place: ray.get(answer) for place, answer in asked.items()}
    if found := [f"workers on {place} lack {problem}" for place, said in answers.items() for problem in said]:
        raise InputError([*found, "code travels when Ray is joined: to one that is joined already, install it"])


def problems_here(modules: list[str]) -> list[str]:
    """Those of `modules` that this process cannot import, with the reason."""
    found = []
    for name in modules:
        try:
            import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody else's code
            found.append(f"{name}: {type(error).__name__}: {error}")
    return found


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=LEFT_OUT)
    else:
        shutil.copy(source, target)
