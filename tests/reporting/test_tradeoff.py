from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.reporting import plot_results
from secure_fed_diffusion.reporting.tradeoff import finding, summarise


def _cell(mode: str, epsilon: float | None, tstr: float, repetition: int = 0) -> dict[str, Any]:
    return {
        "mode": mode,
        "epsilon": epsilon,
        "delta": 1e-5 if epsilon else None,
        "unit": ("client" if mode == "client" else "example") if epsilon else None,
        "clients": 10,
        "repetition": repetition,
        "tstr_cnn": tstr,
        "prototype_accuracy": tstr + 0.02,
        "fid_lenet84_mnist": 60 / tstr,
        "fid_floor_lenet84_mnist": 1.7,
    }


FIVE = [
    _cell("none", None, 0.95),
    _cell("central", 10.0, 0.88),
    _cell("distributed", 10.0, 0.86),
    _cell("local", 10.0, 0.44),
    _cell("client", 10.0, 0.2),
]


def _plot(tmp_path: Path, records: list[dict[str, Any]], out: str = "tradeoff") -> tuple[Path, Path]:
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"command": "c", "commit": "d", "machine": "m", "records": records}))
    return plot_results(results, tmp_path / out)


def test_the_title_states_what_each_kind_of_noise_keeps() -> None:
    expected = (
        "At ε = 10, masked noise shares keep 98 % of central's TSTR accuracy (cnn); local noise keeps 50 %"
    )
    assert finding(FIVE) == expected


def test_without_central_the_title_names_the_best_private_mode() -> None:
    text = finding([r for r in FIVE if r["mode"] != "central"])
    assert text == "The best private mode, distributed at ε = 10, reaches 86.0 % TSTR accuracy (cnn)"
    assert finding(FIVE[:1]) == "Without noise, TSTR accuracy (cnn) is 95.0 %; no private mode was measured"


def test_the_largest_common_epsilon_is_compared() -> None:
    more = [*FIVE, _cell("central", 1.0, 0.8), _cell("distributed", 1.0, 0.4), _cell("central", 20.0, 0.9)]
    assert finding(more).startswith("At ε = 10, masked noise shares keep 98 %")


def test_modes_that_meet_one_target_to_within_rounding_are_compared() -> None:
    records = [_cell("central", 9.992, 0.8), _cell("distributed", 9.941, 0.6), _cell("local", 4.0, 0.4)]
    assert finding(records) == "At ε = 9.99, masked noise shares keep 75 % of central's TSTR accuracy (cnn)"


def test_an_interval_is_students_and_one_run_has_none() -> None:
    records = [_cell("central", 10.0, value, i) for i, value in enumerate((0.8, 0.9, 1.0))]
    cell = summarise(records, "central", 10.0, "tstr_cnn")
    assert cell is not None
    assert cell.mean == pytest.approx(0.9)
    assert cell.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)  # t(0.975; 2)
    single = summarise(records[:1], "central", 10.0, "tstr_cnn")
    assert single is not None
    assert single.half_width is None
    assert summarise(records, "local", 10.0, "tstr_cnn") is None


@pytest.mark.parametrize("out", ["tradeoff.svg", "v1.5"])
def test_a_png_and_an_svg_are_written(tmp_path: Path, out: str) -> None:
    png, svg = _plot(tmp_path, FIVE, out)
    assert png.parent == svg.parent == tmp_path
    assert (png.suffix, svg.suffix) == (".png", ".svg")
    assert png.stem == svg.stem == out.removesuffix(".png").removesuffix(".svg")
    assert Image.open(png).width > 1200
    assert svg.read_text().startswith("<?xml")


def test_the_figure_is_the_same_when_drawn_again(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in _plot(tmp_path, FIVE)]
    assert first == [path.read_bytes() for path in _plot(tmp_path, FIVE)]


def test_repetitions_several_budgets_and_missing_metrics_are_drawn(tmp_path: Path) -> None:
    records = [_cell(m, e, 0.8, i) for m in ("central", "local") for e in (1.0, 10.0) for i in range(3)]
    del records[0]["fid_lenet84_mnist"]
    records[1]["tstr_cnn"] = None
    assert all(path.stat().st_size > 1000 for path in _plot(tmp_path, records))
    only_baseline = [{k: v for k, v in FIVE[0].items() if not k.startswith("fid")}]
    assert all(path.stat().st_size > 1000 for path in _plot(tmp_path, only_baseline))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"records": [{}]}', '{"records": []}', '{"records": [{"mode": "none"}]}']
)
def test_a_file_without_results_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(RunError, match=r"results\.json"):
        plot_results(tmp_path / "results.json", tmp_path / "out")
