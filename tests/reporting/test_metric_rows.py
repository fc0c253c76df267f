"""Utility figures in words: each beside its interval and beside what real images score."""

from __future__ import annotations

import json

from secure_fed_diffusion.reporting.figures import run_figures
from secure_fed_diffusion.reporting.html import render
from secure_fed_diffusion.reporting.metric_rows import metric_rows, metric_text
from secure_fed_diffusion.reporting.run_folder import read_run
from tests.reporting.synthetic_run import record, write_run

LINE = {
    "round": 3,
    "fid_floor_lenet": 1.02,
    "kid_floor_lenet": -0.0004,
    "recall_floor_lenet": 0.93,
    "floor_prototype_accuracy": 0.976,
    "fid_lenet": 19.04,
    "kid_lenet": 0.0123,
    "recall_lenet": 0.611,
    "density_lenet": 1.07,
    "prototype_accuracy": 0.923,
    "interval_prototype_accuracy": [0.9176, 0.9282],
    "tstr_mlp": None,
}


def test_every_metric_has_its_value_its_interval_and_its_real_counterpart():
    assert [metric_text(row) for row in metric_rows(LINE)] == [
        "FID (lenet) 19.0 (real images 1.02)",
        "KID (lenet) 0.0123 (real images -0.000400)",
        "Recall (lenet) 61.1 % (real images 93.0 %)",
        "Density (lenet) 1.07",
        "Prototype accuracy 92.3 % (91.8–92.8 %; real images 97.6 %)",
    ]
    assert [row.better for row in metric_rows(LINE)] == [
        "less",
        "less, 0 is equality",
        "more",
        "about 1",
        "more",
    ]


def test_floors_may_stand_apart_and_an_interval_that_is_none_is_left_out():
    figures = {"tstr_cnn": 0.5}
    for interval in (None, "0.4-0.6", [0.4], [0.4, None]):
        (row,) = metric_rows(figures, {"floor_tstr_cnn": 0.95, "interval_tstr_cnn": interval})
        assert (row.value, row.interval, row.real) == ("50.0 %", None, "95.0 %")


def test_the_report_has_a_table_of_them_and_draws_no_distance_as_an_accuracy(tmp_path):
    folder = write_run(tmp_path / "run")
    before = render(read_run(folder))
    lines = [record(i, rounds=40, mode="distributed") for i in range(41)]
    for line in lines:
        if "fid_lenet84_digits" in line:
            line |= {"kid_lenet84_digits": 0.0123, "kid_floor_lenet84_digits": -0.0004}
            line |= {"interval_tstr_cnn": [0.871, 0.886], "coverage_lenet84_digits": 0.777}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = render(read_run(folder))
    for text in ("The samples beside real images", "KID (lenet84_digits)", "0.0123", "-0.000400", "77.7 %"):
        assert text in page
    assert "87.1–88.6 %" in page
    assert "KID (" not in before
    utility = next(figure for figure in run_figures(read_run(folder)) if figure.name == "utility")
    assert "KID" not in utility.title
    assert not [key for panel in utility.panels for key in panel.keys if "KID" in key.label]
