"""Sphinx reads the Markdown pages of this folder and the docstrings of the package: `make docs`."""

from secure_fed_diffusion import __version__

project = "secure_fed_diffusion"
copyright = "The secure_fed_diffusion authors, Apache-2.0"  # noqa: A001 - Sphinx's name
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Federated, private diffusion models",
    "page_width": "1300px",
    "code_font_size": "0.8em",
}
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["wrap.css"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True

# Docstrings here are prose for people who read the source, not reStructuredText: shown as they stand.
_BLOCK = "    "


def _as_it_stands(app, what, name, obj, options, lines):
    """Show each docstring in a literal block, so that nothing in it can be misread as markup."""
    while lines and not lines[-1].strip():
        lines.pop()
    if lines:
        lines[:] = [".. code-block:: text", "", *(f"{_BLOCK}{line}" for line in lines), ""]


def setup(app):
    """Connect to Sphinx."""
    app.connect("autodoc-process-docstring", _as_it_stands)
