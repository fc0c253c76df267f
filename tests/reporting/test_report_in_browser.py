"""Opens the report in a real browser: no console message, no blocked request, a working slider."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from secure_fed_diffusion.reporting import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def browser() -> str:
    if BROWSER is None:
        reason = "no chromium, chromium-browser or google-chrome on the path"
        if os.environ.get("SFD_REQUIRE_BROWSER") == "1":
            pytest.fail(f"SFD_REQUIRE_BROWSER=1, but {reason}")
        pytest.skip(reason)
    return BROWSER


def _open(browser: str, page: Path, profile: Path, *options: str) -> tuple[str, list[str]]:
    """Return the document after its script ran, and the lines that the console showed."""
    command = [
        browser,
        "--headless=new",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={profile}",
        *options,
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_browser_opens_the_report_without_a_word_and_shows_the_last_samples(
    browser: str, finished_run: Path, tmp_path: Path
) -> None:
    document, console = _open(browser, write_report(finished_run), tmp_path / "profile")
    assert console == []
    assert "sliding" in document
    frames = re.findall(r"<figure data-label=\"([^\"]*)\"( hidden=\"\")?>", document)
    assert [label for label, hidden in frames if not hidden] == ["after round 40"]
    assert len(frames) == 9


def test_a_browser_runs_no_text_of_a_configuration_and_would_show_a_request(
    browser: str, new_run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = new_run(rounds=2, name="</script><script>document.title='owned'</script>")
    report = write_report(folder)
    document, console = _open(browser, report, tmp_path / "profile")
    assert console == []
    assert "<title>owned" not in document
    # The positive control: what the test looks for does appear when a page does ask for something.
    spoiled = report.read_text().replace("</main>", '<img src="https://example.invalid/x.png"></main>')
    (folder / "spoiled.html").write_text(spoiled)
    assert _open(browser, folder / "spoiled.html", tmp_path / "profile")[1]
