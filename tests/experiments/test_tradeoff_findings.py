"""What the trade-off says in its title, table and figure, from records made up for it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from experiments.results import into_readme
from experiments.tradeoff import figure, findings, table


def record(
    mode: str, epsilon: float | None, accuracy: float, *, clients: int | None = 10, seed: int = 0
) -> dict[str, Any]:
    key = "accuracy_classifier" if mode == "dp_classifier" else "tstr_cnn"
    return {
        "mode": mode,
        "epsilon": epsilon,
        "epsilon_spent": epsilon,
        "delta": 1e-5,
        "unit": "example",
        "view": "sum_c1",
        "clients": clients,
        "repetition": seed,
        key: accuracy,
        "fid_lenet84_mnist": 10 / accuracy,
        "seconds": 60.0,
    }


def records() -> list[dict[str, Any]]:
    found = []
    for seed, wobble in enumerate((-0.01, 0.0, 0.01)):
        for epsilon, of_mode in ((1.0, (0.6, 0.59, 0.3)), (10.0, (0.8, 0.79, 0.7))):
            for mode, accuracy in zip(("central", "distributed", "local"), of_mode, strict=True):
                found.append(record(mode, epsilon, accuracy + wobble, seed=seed))
        found.append(record("none", None, 0.9 + wobble, seed=seed))
        found.append(record("distributed", 10.0, 0.78 + wobble, clients=50, seed=seed))
        found.append(record("local", 10.0, 0.48 + 2 * wobble, clients=50, seed=seed))
        found.append(record("dp_merf", 1.0, 0.65 + wobble, clients=None, seed=seed))
        found.append(record("dp_merf", 10.0, 0.66 + wobble, clients=None, seed=seed))
    return found


def test_the_table_has_the_images_and_what_attacks_found() -> None:
    attacked = {
        "membership_auc": 0.512,
        "membership_auc_low": 0.47,
        "membership_auc_high": 0.55,
        "audited_epsilon": 0.4,
        "audited_view": "sum_c1",
        "audited_confidence": 0.95,
        "prototype_accuracy": 0.97,
    }
    found = [record("distributed", 10.0, 0.8), record("none", None, 0.9)]
    results = {"command": "c", "commit": "d", "machine": "m", "minutes_of_all_cells_one_after_another": 3.0}
    text = table.markdown(results | {"records": [found[0] | attacked, found[1]]})
    wanted = "| distributed | 10 | 12.5 | 97.0 % | 0.51 (0.47 to 0.55) | 0.40 of 10.00 (95%, sum_c1) |"
    assert wanted in text
    assert "| none | ∞ | 11.1 | – | – | – |" in text


def test_the_title_is_computed_from_the_numbers() -> None:
    said = findings.finding(records())
    assert (
        "At ε = 10 shared noise gives 79.0% TSTR accuracy, a trusted server 80.0%, local noise 70.0% "
        "(FID 12.7, 12.5, 14.3)" in said
    )
    assert "from 10 to 50 clients the gap to local noise goes from +9.0 to +30.0 points" in said
    assert said.endswith(
        "more accurate than every mode whose unit is one image: DP-MERF at ε = 1; "
        "of lower FID than each of them: DP-MERF at ε = 1"
    )
    assert "chance" not in said  # 9 ± 0 and 30 ± 2.5 points
    once = [r for r in records() if not (r["mode"] == "dp_merf" and r["repetition"])]
    assert findings.finding(once).endswith("DP-MERF at ε = 1* (* too few runs on one side for an interval)")
    one_run = [r for r in records() if r["mode"] == "dp_merf" or r["epsilon"] != 1.0 or not r["repetition"]]
    assert "DP-MERF at ε = 1*" in findings.finding(one_run)  # the mode's side counts too
    more = [
        record("class_gaussians", 1.0, 0.7, clients=None),
        record("class_gaussians", 10.0, 0.9, clients=None),
    ]
    win = findings.simpler_wins([*records(), *more])
    assert [(curve.label, round(cell.mean, 2)) for curve, cell in win[1.0].methods] == [
        ("class Gaussians", 0.7),
        ("DP-MERF", 0.65),
    ]
    assert [curve.label for curve, _ in win[10.0].methods] == ["class Gaussians"]
    assert (win[10.0].mode.label, round(win[10.0].cell.mean, 2)) == ("central", 0.8)
    noisy = [
        r | {"tstr_cnn": r["tstr_cnn"] - 0.3 * (r["repetition"] - 1)} if r["mode"] == "local" else r
        for r in records()
    ]
    assert "+30.0 points (which chance may do), in FID from" in findings.finding(noisy)
    close = [record(m, 10.0, a + g * (m == "distributed"), clients=n, seed=i)
             for n, many in ((10, (0.010, 0.012, 0.008)), (50, (0.019, 0.0215, 0.0165)))
             for i, g in enumerate(many) for m, a in (("distributed", 0.7), ("local", 0.7))]  # fmt: skip
    assert "from +1.0 to +1.9 points, in FID" in findings.finding(
        close
    )  # intervals overlap, Welch's p is 0.009
    twice = [r for r in records() if not (r["clients"] == 50 and r["repetition"] == 2)]
    assert "from 10 to 50 clients" not in findings.finding(twice)  # too few to say it of
    worse = [r | {"tstr_cnn": 0.2} if r["mode"] == "dp_merf" else r for r in records()]
    assert findings.finding(worse).endswith(
        "no simpler method is more accurate at any ε; of lower FID than each of them: DP-MERF at ε = 1"
    )
    without = [{key: value for key, value in r.items() if not key.startswith("fid")} for r in worse]
    assert findings.finding(without).endswith("no simpler method is more accurate at any ε")
    classifies = [*records(), record("dp_classifier", 1.0, 0.99, clients=None)]
    wins = findings.simpler_wins(classifies, "fid_lenet84_mnist")
    assert [curve.label for curve, _ in wins[1.0].methods] == ["DP-MERF"]  # a classifier draws no images
    assert set(wins) == {1.0}
    assert findings.finding([]) == "Too few cells for a comparison"


def test_a_win_that_welch_does_not_tell_from_each_mode_is_marked_as_one_by_mean_alone() -> None:
    # 60.0 ± 1 against 61.0 ± 1 in three runs each: p = .29; local's 30 is told apart from both
    near = [record("class_gaussians", 1.0, 0.6 + 0.01 * i, clients=None, seed=i) for i in range(3)]
    said = findings.finding([*records(), *near])
    assert "one image: DP-MERF at ε = 1, class Gaussians at ε = 1†; of lower FID than each" in said
    assert said.endswith("(† by mean alone: Welch's test does not tell it from each of them)")
    results = {"command": "c", "commit": "d", "machine": "m", "records": [*records(), *near]}
    text = table.markdown(results | {"minutes_of_all_cells_one_after_another": 3.0})
    assert "DP-MERF 65.0%, class Gaussians 61.0%†; best mode: central 60.0%." in text
    assert "\n† the better mean alone" in text
    # told from the best mode, but not from one whose runs lie far apart
    wide = [
        r | {"tstr_cnn": r["tstr_cnn"] + 0.2 * r["repetition"]}
        if (r["mode"], r["epsilon"]) == ("local", 1.0)
        else r
        for r in records()
    ]
    assert "DP-MERF at ε = 1†" in findings.finding(wide)


def test_the_gap_is_paired_by_seed() -> None:
    gap = findings.gaps(records())[10.0, 50]
    assert gap.mean == pytest.approx(0.3)
    assert gap.repetitions == 3
    # differences 0.31, 0.30, 0.29: 4.303 * 0.01 / sqrt(3)
    assert gap.half_width == pytest.approx(4.3027 * 0.01 / math.sqrt(3), rel=1e-3)
    unpaired = [r for r in records() if not (r["mode"] == "local" and r["repetition"] == 2)]
    assert findings.gaps(unpaired)[10.0, 50].repetitions == 2


def test_the_figure_is_drawn_from_the_results_alone(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"records": records()}))
    png = figure.draw(tmp_path / "results.json", tmp_path / "figure.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert png.with_suffix(".svg").stat().st_size > 10_000


def test_the_table_marks_the_best_and_says_where_a_simpler_method_wins(tmp_path: Path) -> None:
    results = {"command": "c", "commit": "d", "machine": "m", "records": records()}
    results["minutes_of_all_cells_one_after_another"] = 3.0
    readme = tmp_path / "README.md"
    readme.write_text("head\n<!-- results -->\nstale\n<!-- end of results -->\ntail\n")
    into_readme(readme, "results", table.markdown(results))
    text = readme.read_text()
    assert text.startswith("head\n")
    assert text.endswith("tail\n")
    assert "stale" not in text
    assert (
        "At ε = 1 simpler is more accurate: DP-MERF 65.0%; best mode: central 60.0%. "
        "And simpler has the lower FID: DP-MERF 15.4; best mode: central 16.7." in text
    )
    assert "fewer than 3 runs" not in text
    once = [r for r in records() if not (r["mode"] == "dp_merf" and r["repetition"])]
    text = table.markdown(results | {"records": once})
    assert "DP-MERF 64.0%*; best mode: central 60.0%." in text
    assert "\n\\* fewer than 3 runs" in text
    text = readme.read_text()
    row = next(line for line in text.splitlines() if line.startswith("| DP-MERF"))
    assert "**65.0 % ± 2.5**" in row
    row = next(line for line in text.splitlines() if line.startswith("| 50 clients"))
    assert row.startswith("| 50 clients | 10 | +30.0 ± 2.5 | -8")


def test_the_readme_holds_the_tables_of_the_committed_results(tmp_path: Path) -> None:
    text, copy = (table.HERE / "README.md").read_text(encoding="utf-8"), tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    for mark, name in (("results", "results.json"), ("quick", "quick_results.json")):
        if (table.HERE / name).exists():
            committed = json.loads((table.HERE / name).read_text(encoding="utf-8"))
            into_readme(copy, mark, table.markdown(committed))
    assert copy.read_text(encoding="utf-8") == text
