"""Configuration of Sphinx: the pages of this folder, and the reference of the Python API from its docstrings."""

import sys
from pathlib import Path

import raybd

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "raybd"
author = "The raybd authors"
release = raybd.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "api_reference"]
exclude_patterns = ["extensions"]

# Pages: GitHub's Markdown, and links to headings as GitHub names them
myst_heading_anchors = 4
myst_enable_extensions = ["strikethrough", "tasklist"]

# Docstrings: Google's sections; `name` is code
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
smartquotes = False
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 90

html_theme = "furo"
html_title = f"raybd {release}"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
