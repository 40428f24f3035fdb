"""Sphinx extension: the reference of methods and configurations, from their docstrings and the comments of fields.

`method-table` documents every method of a table; behind the docstring of a dataclass stands a table of its fields.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, ClassVar

from docutils import nodes
from settings_table import markup, settings_table, text
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive, and the events of docstrings and signatures."""
    app.add_directive("method-table", MethodTable)
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", append_settings, priority=600)
    app.connect("autodoc-process-signature", hide_fields)
    return {"parallel_read_safe": True}


class MethodTable(SphinxDirective):
    """`.. method-table:: raybd.attacks.ATTACKS`: a section for each method of a table of classes or functions."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """The sections."""
        module, _, name = self.arguments[0].rpartition(".")
        table: Mapping[str, Any] = getattr(import_module(module), name)
        lines = [line for entry in sorted(table) for line in _section(entry, table[entry])]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _section(name: str, method: Any) -> Iterator[str]:
    """The lines of one method: its name as a heading, what its module says, its documentation, its presets."""
    yield from (name, "-" * len(name), "")
    yield from (*markup((inspect.getdoc(inspect.getmodule(method)) or "").splitlines()), "")
    kind = "class" if inspect.isclass(method) else "function"
    yield from (f".. auto{kind}:: {method.__module__}.{method.__qualname__}", "")
    for preset, settings in getattr(method, "presets", {}).items():
        said = ", ".join(f"{key}={value}" for key, value in settings.items()) or "the defaults"
        yield f"- Preset ``{name}:{preset}``: {text(said)}"
    yield ""


def escape_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: what reStructuredText would read as markup stands for itself."""
    first = [""] if what == "property" else []  # napoleon takes what ends in a colon on the first line for a type
    lines[:] = [*first, *markup(lines)]


def append_settings(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """A table of the fields behind the docstring of a dataclass."""
    if what == "class" and is_dataclass(obj):
        lines += ["", *settings_table(obj), ""]


def hide_fields(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, None] | None:
    """No signature of a dataclass: its table says more."""
    return ("", None) if what == "class" and is_dataclass(obj) else None
