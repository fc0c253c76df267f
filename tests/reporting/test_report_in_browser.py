"""Opens the pages in a real browser: no console message, no request, widths, and what its script is for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secure_fed_diffusion.reporting import write_report
from secure_fed_diffusion.reporting.compare import write_comparison
from tests.reporting.chromium import Tab, open_tab
from tests.reporting.synthetic_run import write_run
from tests.reporting.test_compare import vary

# The relative luminance of a colour and the contrast of two, as WCAG 2.1 defines them.
CONTRAST = """
(function (one, two) {
  var style = getComputedStyle(document.documentElement);
  function light(name) {
    var probe = document.createElement('i');
    probe.style.color = style.getPropertyValue('--' + name);
    document.body.appendChild(probe);
    var parts = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map(function (part) {
      var value = part / 255;
      return value <= 0.03928 ? value / 12.92 : Math.pow((value + 0.055) / 1.055, 2.4);
    });
    probe.remove();
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  }
  var a = light(one), b = light(two);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
})('%s', '%s')
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with open_tab(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_run(tmp_path_factory.mktemp("report") / "run", rounds=20))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("comparison")
    for epsilon in (1.0, 10.0):
        vary(write_run(root / f"d{epsilon:g}", rounds=10), epsilon=epsilon)
    write_run(root / "none", mode="none", rounds=10)
    return write_comparison([root], root / "comparison.html")


@pytest.fixture(params=["report", "comparison"])
def page(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_a_browser_opens_a_page_without_a_word_and_asks_for_nothing(
    tab: Tab, page: Path, width: int, dark: bool
) -> None:
    tab.open(page, width=width, dark=dark)
    assert tab.complaints() == []
    assert tab.requests() == []
    # what is wider than the page scrolls in its own box
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("dark", [False, True])
def test_colours_are_legible_by_the_standard_in_both_schemes(tab: Tab, report: Path, dark: bool) -> None:
    tab.open(report, dark=dark)
    for text in ("ink", "muted", "blue"):  # 4.5 for text, 3 for lines: WCAG AA
        for ground in ("page", "card", "soft"):
            assert tab.evaluate(CONTRAST % (text, ground)) >= 4.5, (text, ground)
    for line in ("vermillion", "green", "purple", "orange", "sky"):
        assert tab.evaluate(CONTRAST % (line, "card")) >= 3, line


def test_a_page_shows_everything_without_its_script(tab: Tab, page: Path) -> None:
    tab.open(page, scripts=False)
    root = tab.call("DOM.getDocument", depth=-1)["root"]["nodeId"]
    shown = tab.call("DOM.querySelectorAll", nodeId=root, selector=".viewer figure:not([hidden])")
    total = len(re.findall("data-round=", page.read_text(encoding="utf-8")))
    assert len(shown["nodeIds"]) == total > 2


def test_the_slider_steps_through_the_rounds(tab: Tab, page: Path) -> None:
    tab.open(page)
    visible = (
        "Array.from(document.querySelectorAll('.viewer figure:not([hidden])')).map(f => f.dataset.round)"
    )
    last = tab.evaluate(visible)
    tab.evaluate(
        "var s = document.getElementById('samples-slider'); s.value = 0; s.dispatchEvent(new Event('input'))"
    )
    first = tab.evaluate(visible)
    assert len(first) == len(last)
    assert set(first) == {"0"}
    assert "0" not in last
    assert "warm-up" in tab.evaluate("document.getElementById('samples-label').textContent") or len(last) > 1


def test_hovering_and_the_arrow_keys_show_a_points_value(tab: Tab, page: Path) -> None:
    tab.open(page)
    tab.evaluate("document.querySelector('.dots').scrollIntoView({block: 'center'})")
    box = tab.evaluate(
        "(function () { var b = document.querySelector('.dots circle').getBoundingClientRect();"
        " return {x: b.left + b.width / 2, y: b.top + b.height / 2}; })()"
    )
    assert tab.evaluate("document.getElementById('tip').hidden") is True
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=box["x"], y=box["y"])
    said = tab.evaluate("document.getElementById('tip').textContent")
    assert re.search(r": [\d.e+-]+ \(", said), said
    assert tab.evaluate("document.getElementById('tip').hidden") is False
    key = "new KeyboardEvent('keydown', {key: 'ArrowRight', cancelable: true})"
    tab.evaluate(f"document.querySelector('svg.plot:has(.dots)').dispatchEvent({key})")
    assert tab.evaluate("document.getElementById('tip').textContent") != ""
    assert tab.complaints() == []


def test_choosing_an_epsilon_hides_the_others_and_keeps_the_baseline(tab: Tab, comparison: Path) -> None:
    tab.open(comparison)
    rows = (
        "Array.from(document.querySelectorAll('tr[data-epsilon]:not([hidden])')).map(r => r.dataset.epsilon)"
    )
    choose = (
        "var c = document.getElementById('epsilon-chooser');"
        " c.value = '%s'; c.dispatchEvent(new Event('change'))"
    )
    assert set(tab.evaluate(rows)) == {"1", "10", "inf"}
    tab.evaluate(choose % "1")
    assert set(tab.evaluate(rows)) == {"1", "inf"}
    tab.evaluate(choose % "all")
    assert set(tab.evaluate(rows)) == {"1", "10", "inf"}


def test_a_table_is_sorted_by_a_click_on_its_head(tab: Tab, comparison: Path) -> None:
    tab.open(comparison)
    column = (
        "Array.from(document.querySelector('table.sortable').tBodies[0].rows)"
        ".map(r => Number(r.children[1].dataset.v))"
    )
    click = "document.querySelectorAll('table.sortable th button')[1].click()"
    tab.evaluate(click)
    rising = tab.evaluate(column)
    assert rising == sorted(rising)
    tab.evaluate(click)
    assert tab.evaluate(column) == rising[::-1]
    assert len(set(rising)) > 1


def test_the_data_of_a_figure_are_downloaded_and_the_policy_lets_them(
    tab: Tab, page: Path, tmp_path: Path
) -> None:
    tab.open(page)
    tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), eventsEnabled=True)
    tab.evaluate("document.querySelector('a.data').click()")
    tab.wait_for("Browser.downloadProgress", state="completed")
    (file,) = tmp_path.iterdir()
    assert file.suffix == ".csv"
    assert file.read_text(encoding="utf-8").startswith(("panel,series,x_name", "run,mode"))
    assert tab.complaints() == []


def test_a_page_prints_whole(tab: Tab, page: Path) -> None:
    tab.open(page, width=700)  # A4 within its margins
    pdf = tab.call("Page.printToPDF", printBackground=True)["data"]
    assert len(pdf) > 20_000
    tab.call("Emulation.setEmulatedMedia", media="print")
    style = "getComputedStyle(document.querySelector('.controls')).display"
    assert tab.evaluate(style) == "none"
    boxes = "Array.from(document.querySelectorAll('.scroll'))"
    assert tab.evaluate(f"{boxes}.filter(b => b.scrollWidth > b.clientWidth + 1).length") == 0


def test_a_browser_runs_no_text_of_a_configuration_and_would_show_a_request(
    tab: Tab, new_run: Callable[..., Path]
) -> None:
    folder = new_run(rounds=2)
    config, hostile = folder / "config.toml", "</script><script>document.title='owned'</script>"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('name = "digits"', f'name = "{hostile}"'), encoding="utf-8")
    report = write_report(folder)
    tab.open(report)
    assert tab.complaints() == []
    assert tab.evaluate("document.title") != "owned"
    assert hostile in tab.evaluate("document.body.textContent")
    # The positive control: what the test looks for does appear when a page does ask for something.
    spoiled = shutil.copy(report, folder / "spoiled.html")
    text = Path(spoiled).read_text(encoding="utf-8")
    Path(spoiled).write_text(text.replace("</main>", '<img src="https://example.invalid/x.png"></main>'))
    tab.open(Path(spoiled))
    assert tab.complaints()
