"""A check of .pt2 files before PyTorch reads them: its reader unpickles, imports and evaluates what they name.

What `torch.export.save` writes of an ordinary network passes: raw weights, tensors that `torch.load` reads with
weights_only, operations of ATen, and arithmetic of sizes.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from raybd.errors import InputError

TEXTS = ("version", "archive_format", "archive_version", "byteorder", "serialization_id")
TEXT = re.compile(rb"[A-Za-z0-9._-]{1,64}\n?")
PAYLOADS = re.compile(r"(?:^|/)data/(?:weights|constants)/[^/]+_config\.json$")
OPERATION = re.compile(r"torch\.ops\.aten\.(?!from_file|save|load)\w+\.\w+|(?:_operator|math)\.\w+|torch\.sym_\w+")
SYMBOL = re.compile(r"[suzf]+\d+")
NAMES = {"Symbol", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv", "Integer", "L", "Eq", "Ne"}
MEMBERS = {"size", "stride", "shape", "ndim"}
ARITHMETIC = (
    ast.Expression,
    ast.Compare,
    ast.BoolOp,
    ast.BinOp,
    ast.UnaryOp,
    ast.Subscript,
    ast.keyword,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.boolop,
    ast.Load,
    ast.Tuple,
)


def check_program(path: Path) -> None:
    """Refuse a .pt2 file that holds more than an ordinary network.

    Raises:
        InputError: with what it holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = list(_suspect_records(archive))
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise InputError(f"{path} is no .pt2 file that can be read: {error}") from error
    if found:
        raise InputError(f"{path} holds more than a network, and reading that could run code: {', '.join(found[:5])}")


def _suspect_records(archive: zipfile.ZipFile) -> Iterator[str]:
    names = [info.filename for info in archive.infolist() if not info.is_dir()]
    raw = _raw_tensors(archive, names)
    for name in names:
        if name in raw:
            continue
        content = archive.read(name)
        if name.rpartition("/")[2] in TEXTS and TEXT.fullmatch(content):
            continue
        try:
            yield from _suspect_parts(json.loads(content.decode()))
        except (UnicodeDecodeError, ValueError):
            if not _only_tensors(content):
                yield f"the record {name}"


def _raw_tensors(archive: zipfile.ZipFile, names: list[str]) -> set[str]:
    """The records that are read as bytes of tensors."""
    raw: set[str] = set()
    pickled: set[str] = set()
    for name in filter(PAYLOADS.search, names):
        folder = name.rpartition("/")[0]
        for entry in json.loads(archive.read(name)).get("config", {}).values():
            file, kind = f"{folder}/{entry['path_name']}", str(entry["path_name"])
            plain = entry.get("use_pickle") is False and kind.startswith(("weight_", "tensor_"))
            (raw if plain else pickled).add(file)
    return raw - pickled


def _only_tensors(content: bytes) -> bool:
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - of any kind, by what is in it
        return False
    return True


def _suspect_parts(value: Any) -> Iterator[str]:
    """What a record of JSON has PyTorch import or evaluate, where it is neither an operation nor arithmetic."""
    if isinstance(value, list):
        for part in value:
            yield from _suspect_parts(part)
    if isinstance(value, dict):
        target, text = value.get("target"), value.get("expr_str")
        if "inputs" in value and isinstance(target, str) and not OPERATION.fullmatch(target):
            yield f"the operation {target[:80]}"
        guards = value.get("guards_code")
        for written in [*([text] if isinstance(text, str) else []), *(guards if isinstance(guards, list) else [])]:
            if not _is_arithmetic(str(written)):
                yield f"the expression {str(written)[:80]}"
        for part in value.values():
            yield from _suspect_parts(part)


def _is_arithmetic(text: str) -> bool:
    try:
        return all(map(_is_plain, ast.walk(ast.parse(text, mode="eval"))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_plain(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or bool(SYMBOL.fullmatch(node.value)) or node.value in ("args", "kwargs")
    if isinstance(node, ast.Name):
        return node.id in NAMES or bool(SYMBOL.fullmatch(node.id))
    if isinstance(node, ast.Attribute):
        return node.attr in MEMBERS
    return isinstance(node, (*ARITHMETIC, ast.Call))
