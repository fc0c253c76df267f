"""What every HTML page of ours shares: its templates, its one script, and how it is put on disk.

A page is one file that requests nothing: its content security policy admits the one script below, by its
SHA-256, and no other; all text is escaped.  Without JavaScript nothing is missing but the slider, the choice
of an ε, sorting, and the boxes at a figure's points (the browser's own titles show those).

>>> script_hash()[:7] != "" and len(script_hash())
44
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from secure_fed_diffusion._version import VERSION
from secure_fed_diffusion.reporting import wording
from secure_fed_diffusion.reporting.plotting import DARK, LIGHT


def script() -> str:
    """Return the script of every page."""
    return (files("secure_fed_diffusion.reporting") / "page.js").read_text(encoding="utf-8")


def script_hash() -> str:
    """Return what the content security policy admits: the script's SHA-256 in base64."""
    return base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()


def render_page(template: str, **content: Any) -> str:
    """Return one HTML document; the style, the colours and the script are filled in."""
    environment = Environment(
        loader=PackageLoader("secure_fed_diffusion.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "epsilon": wording.epsilon_text,
        "delta": wording.delta_text,
        "figure": wording.figure_text,
        "percent": wording.percent_text,
        "size": wording.bytes_text,
        "duration": wording.duration_text,
        "minutes": wording.minutes_text,
        "metric": wording.metric_name,
        "unit": wording.unit_text,
        "toml": toml_text,
        "unbroken": _unbroken,
    }
    return environment.get_template(template).render(
        **content,
        markup=Markup,
        light=LIGHT,
        dark=DARK,
        script=Markup(script()),
        script_hash=script_hash(),
        version=VERSION,
    )


def save_page(page: str, target: Path, *, private: bool = False) -> Path:
    """Write a page in one step, so that no reader sees half of it; a private one for its owner alone."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".report-", suffix=".html")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(page)
        os.chmod(temporary, 0o600 if private else 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def _unbroken(text: str) -> str:
    """Keep a figure and its sign on one line."""
    for pair in ("ε = ", "ε ≤ ", " %"):
        text = text.replace(pair, pair.replace(" ", "\u00a0"))
    return text


def toml_text(value: Any) -> str:
    """Return a setting as its file has it, lists without brackets."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(toml_text(item) for item in value) if value else "(empty)"
    return str(value)
