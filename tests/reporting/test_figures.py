from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from secure_fed_diffusion.reporting import plotting
from secure_fed_diffusion.reporting.figures import run_figures
from secure_fed_diffusion.reporting.plotting import DARK, LIGHT, Figure
from secure_fed_diffusion.reporting.round_figures import survivors_figure
from secure_fed_diffusion.reporting.run_folder import read_run
from secure_fed_diffusion.reporting.server_figure import server_figure


@pytest.fixture(scope="module")
def figures(finished_run: Path) -> dict[str, Figure]:
    return {figure.name: figure for figure in run_figures(read_run(finished_run))}


def test_a_finished_run_has_every_figure(figures: dict[str, Figure]) -> None:
    assert set(figures) == {"privacy", "utility", "path", "server", "cost", "survivors"}


def test_titles_state_what_the_data_show(figures: dict[str, Figure]) -> None:
    privacy = "40 rounds spent ε = 9.94 of the budget of 10 against the server and 1 colluding client"
    assert figures["privacy"].title == privacy
    assert "FID went from 151 to 11.9, 7.0 × its floor" in figures["utility"].title
    assert figures["path"].title.startswith("From ε = 1.56 to 9.94, prototype accuracy went from 33.0 %")
    assert "as flat as uniform" in figures["server"].title
    assert "5 of 41 rounds" in figures["survivors"].title
    assert "1.38 MB up and 1.62 MB down" in figures["cost"].title


def test_every_panel_is_well_formed_svg_in_the_colours_of_the_page(figures: dict[str, Figure]) -> None:
    for panel in (panel for figure in figures.values() for panel in figure.panels):
        root = ElementTree.fromstring(panel.body.replace("xlink:href", "href"))
        assert root.tag == "svg"
        assert root.get("aria-label")
        assert "var(--ink)" in panel.body or "var(--muted)" in panel.body
        assert not [colour for colour in LIGHT.values() if colour in panel.body]
        assert "http" not in panel.body


def test_views_of_equal_cost_share_a_line_and_its_label(figures: dict[str, Figure]) -> None:
    labels = [key.label for key in figures["privacy"].panels[0].keys]
    assert "the sum = the released model" in labels
    assert "budget ε = 10" in labels


def test_an_epsilon_is_drawn_with_delta_unit_relation_and_view(figures: dict[str, Figure]) -> None:
    privacy, path = figures["privacy"], figures["path"]
    for text in (privacy.caption + privacy.title, path.caption + path.panels[0].body):
        for word in ("1e-5", "example", "add_remove", "PLD"):
            assert word in text
    assert "sum_c1" in path.caption


def test_a_broken_mask_is_called_out(new_run: Callable[..., Path]) -> None:
    folder = new_run(rounds=1)
    view = json.loads((folder / "server_view.json").read_text())
    view["masked_histogram"]["counts"] = view["sum_histogram"]["counts"]
    (folder / "server_view.json").write_text(json.dumps(view))
    figure = server_figure(read_run(folder))
    assert figure is not None
    assert "NOT uniform" in figure.title


@pytest.mark.parametrize(
    "broken", [{"bin_edges": [0, 1], "counts": [1, 2]}, {"counts": [1, None, 3]}, [], None]
)
def test_a_histogram_that_is_none_is_left_out(new_run: Callable[..., Path], broken: object) -> None:
    folder = new_run(rounds=1)
    view = {"masked_histogram": broken, "sum_histogram": broken}
    (folder / "server_view.json").write_text(json.dumps(view))
    assert server_figure(read_run(folder)) is None


def test_a_run_without_privacy_has_no_figure_of_epsilon(new_run: Callable[..., Path]) -> None:
    names = {figure.name for figure in run_figures(read_run(new_run(mode="none", rounds=6)))}
    assert "privacy" not in names
    assert "path" not in names
    assert "utility" in names


def test_a_drawing_that_is_too_large_becomes_a_picture(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plotting, "_LARGEST_SVG_BYTES", 100)
    figure = survivors_figure(read_run(finished_run))
    assert figure is not None
    panel = figure.panels[0]
    assert panel.body.startswith('<img class="plot"')
    assert "data:image/png;base64," in panel.body


def test_the_dark_palette_has_every_colour_of_the_light_one() -> None:
    assert set(LIGHT) == set(DARK)


def _contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two sRGB colours (WCAG 2.1, relative luminance)."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("palette", "card"), [(LIGHT, "#ffffff"), (DARK, "#18202a")])
def test_text_and_lines_stand_out_from_their_card(palette: dict[str, str], card: str) -> None:
    for name, colour in palette.items():
        needed = {"ink": 7.0, "muted": 4.5, "grid": 1.0}.get(name, 3.0)
        assert _contrast(colour, card) >= needed, name
