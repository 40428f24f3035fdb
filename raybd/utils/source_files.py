"""The source of a user's module: its file and those that it imports from the same tree, by their content."""

import ast
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

from torch import nn

import raybd
from raybd.errors import InputError
from raybd.utils.cache import content_hash
from raybd.utils.files import read_content

LIBRARIES = ("raybd", "torch", "torchvision")  # their versions are recorded; no content of theirs identifies anything
INSTALLED = ("site-packages", "dist-packages")
_first_seen: WeakKeyDictionary[ModuleType, str] = WeakKeyDictionary()  # the source of a module when it was imported


def source_hash(name: str) -> str:
    """16 hex digits of the source of module `name` and of every module below the same folder that it imports, directly
    or not; "" for a module without a file. Names and places of files do not count.

    Of an installed package only modules of that package count, and raybd's own never do. Imports are read from the
    source: what is imported by a computed name is not found.

    Raises:
        InputError: a file has changed since this process imported the module, or cannot be read.
    """
    module = import_module(name)
    files = source_files(name)
    if not files:
        return ""
    first, *others = (content_hash(read_content(file)) for file in files)
    found = content_hash(first, *sorted(others))
    if _first_seen.setdefault(module, found) != found:
        listed = ", ".join(map(str, files))
        raise InputError(f"{name} has changed since this process imported it ({listed}): start Python anew")
    return found


def script_hash(path: Path) -> str:
    """16 hex digits of a script's content and, of a Python script, of the modules beside it that it imports, directly
    or not; it is not imported. Imports by a computed name are not found.

    Raises:
        InputError: a file cannot be read.
    """
    files, waiting = {path}, [path]
    while waiting:
        file = waiting.pop()
        names = _imports("", file) if file.suffix == ".py" else ()
        new = {found for name in names if (found := _beside(path.parent, name))} - files
        files |= new
        waiting += sorted(new)
    others = sorted(content_hash(read_content(file)) for file in files - {path})
    return content_hash(content_hash(read_content(path)), *others)


def _beside(folder: Path, module: str) -> Path | None:
    place = folder.joinpath(*module.split("."))
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return next((file for file in files if file.is_file()), None) if module else None


def class_sources(network: nn.Module) -> str:
    """The `source_hash` of each module that defines a part of `network`; "" if all of them are raybd's or PyTorch's."""
    names = {type(part).__module__ for part in network.modules()}
    users = [name for name in names if name.partition(".")[0] not in LIBRARIES and name in sys.modules]
    return "".join(f" {source}" for source in sorted(filter(None, map(source_hash, users))))


def source_files(name: str) -> list[Path]:
    """The files of `source_hash`, that of the module itself first."""
    base = _base(name)
    if base is None:
        return []
    own = getattr(sys.modules[name], "__file__", None)
    found = {name: Path(own)} if own else {}
    waiting = [name]
    seen: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if file := found.get(module) or _file(module, base, name):
            found[module] = file
            waiting += _imports(module, file)
        waiting += [module.rpartition(".")[0]] * ("." in module)
    return list(found.values())


def source_folder(name: str) -> list[Path]:
    """The top-level packages and single files that hold the `source_files` of module `name`, each once."""
    base = _base(name)
    files = source_files(name)
    return list(dict.fromkeys(base / file.relative_to(base).parts[0] for file in files)) if base else []


def _base(name: str) -> Path | None:
    """The folder that holds the top-level module or package of `name`; None if it has no file."""
    top = sys.modules[name.partition(".")[0]]
    if getattr(top, "__file__", None) is None:  # a notebook, or a package without __init__.py
        return next((Path(folder).parent for folder in getattr(top, "__path__", ())), None)
    file = Path(str(top.__file__))
    return file.parent.parent if file.stem == "__init__" else file.parent


def _file(module: str, base: Path, root: str) -> Path | None:
    """The file of a module of the same tree; None if it is of no file there, or not the user's."""
    top = module.partition(".")[0]
    elsewhere = any(part in INSTALLED for part in base.parts) and top != root.partition(".")[0]
    raybds = base == Path(raybd.__file__).parent.parent and top in ("raybd", "analysis", "sweeps")
    place = base.joinpath(*module.split("."))
    files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
    return None if elsewhere or raybds else next((file for file in files if file.is_file()), None)


def _imports(module: str, file: Path) -> Iterator[str]:
    """The names of modules that `file` may import, those that are none among them."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # no Python source: an extension module
        return
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.level == 0 or package):
            start = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            yield from (start, *(f"{start}.{alias.name}" for alias in node.names if alias.name != "*"))
