"""The pages that Sphinx turns into a site: no dead link; the site itself where Sphinx is installed."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
PACKAGE = DOCS.parent / "secure_fed_diffusion"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_to_files_lead_to_a_page_of_the_site(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        found = (page.parent / target).resolve()
        assert found.is_file(), target
        assert found.is_relative_to(DOCS), f"{target}: outside the site"


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = set()
    for page in PAGES:
        for table in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            names = [line for line in table.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / f"{name}.md").resolve() for name in names}
    assert listed == {page.resolve() for page in PAGES} - {DOCS / "index.md"}


def test_the_api_pages_name_modules_that_are_there() -> None:
    named = [
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8"))
    ]
    assert len(named) == len(set(named))
    assert [name for name in named if importlib.util.find_spec(name) is None] == []


def test_every_module_that_somebody_may_import_is_on_an_api_page() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    apart = {"benchmarks", "commands", "flower_app"}  # the commands' own
    whole = {
        "dp",
        "flower_mod",
        "reporting",
        "secagg",
    }  # by what their `__all__` names, or the chosen modules
    for path in sorted(PACKAGE.rglob("*.py")):
        *folders, name = path.relative_to(PACKAGE).with_suffix("").parts
        if name.startswith("_") or name in {"cli", "command"} or {*folders} & (apart | whole):
            continue
        assert f"automodule:: {'.'.join(['secure_fed_diffusion', *folders, name])}\n" in pages


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("sphinx") is None or importlib.util.find_spec("myst_parser") is None,
    reason="sphinx and myst-parser (extra docs) are not there",
)
def test_the_site_builds_without_a_warning_and_without_a_dead_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS)]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert (tmp_path / "api" / "secagg.html").read_text(encoding="utf-8").count("SecAggParams") > 3
    for page in pages:
        for target in re.findall(r'href="([^"#:?]+)(?:#[^"]*)?"', page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(tmp_path)}: {target}"
