from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from matplotlib.axes import Axes

from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.reporting import compare_figures
from secure_fed_diffusion.reporting.compare import _group_row, _promises, write_comparison
from secure_fed_diffusion.reporting.run_folder import RunFolder
from secure_fed_diffusion.reporting.run_set import (
    Member,
    RunSet,
    find_runs,
    holds_runs,
    read_runs,
    series_label,
)
from tests.reporting.synthetic_run import set_in, write_run
from tests.reporting.test_html import Page, _assert_loads_nothing


def vary(folder: Path, *, epsilon: float | None = None, seed: int | None = None, lift: float = 0.0) -> Path:
    """Make a synthetic run another one: its budget, its seed, or a higher accuracy."""
    summary = json.loads((folder / "summary.json").read_text())
    if epsilon is not None:
        set_in(folder, f"privacy.epsilon={epsilon}")
        summary["target_epsilon"] = epsilon
        lines = (folder / "metrics.jsonl").read_text()
        lines = re.sub(r'"budget_epsilon": 10\.0', f'"budget_epsilon": {epsilon}', lines)
        (folder / "metrics.jsonl").write_text(lines)
        for views in summary["epsilon"].values():
            views |= {key: None if value is None else value * epsilon / 10 for key, value in views.items()}
    if seed is not None:
        set_in(folder, f"run.seed={seed}")
    summary["metrics"]["tstr_cnn"] += lift
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of cells: two modes at two budgets with two seeds each, a baseline, a broken cell."""
    root = tmp_path_factory.mktemp("sweep")
    for mode in ("central", "distributed"):
        for epsilon in (1.0, 10.0):
            for seed in (0, 1):
                cell = write_run(root / "cells" / f"{mode}-{epsilon:g}-{seed}", mode=mode, rounds=4)
                vary(cell, epsilon=epsilon, seed=seed, lift=-0.01 * seed)
    vary(write_run(root / "cells" / "none-0", mode="none", rounds=4), seed=0)
    broken = write_run(root / "cells" / "zz-broken", rounds=2)
    (broken / "summary.json").write_text("{")
    (root / "grid.toml").write_text("")
    (root / "table.csv").write_text("mode\n")
    return root


@pytest.fixture(scope="module")
def page(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    path = write_comparison([sweep], tmp_path_factory.mktemp("page") / "comparison.html")
    source = path.read_text(encoding="utf-8")
    return source, Page(source)


def test_the_runs_of_a_sweep_are_found_whatever_else_its_folder_holds(sweep: Path) -> None:
    assert holds_runs(sweep)
    assert not holds_runs(sweep / "cells" / "none-0")
    assert len(find_runs([sweep])) == 10
    assert len(find_runs([sweep / "cells" / "none-0", sweep])) == 10


def test_a_folder_without_runs_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=tmp_path.name):
        find_runs([tmp_path])


def test_what_differs_is_found_and_seeds_make_repetitions(sweep: Path) -> None:
    found = read_runs([sweep])
    assert set(found.differing) == {"privacy.mode", "privacy.epsilon", "run.seed"}
    assert sorted(len(group) for group in found.groups()) == [1, 2, 2, 2, 2]
    assert found.budgets == ["1", "10"]
    labels = [member.label for member in found.members]
    assert len(set(labels)) == 9
    assert labels[0].startswith("none")
    assert "distributed · ε ≤ 10 · seed 1" in labels


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_shown(page: tuple[str, Page]) -> None:
    text = " ".join(page[1].text.split())
    assert "Left out:" in text
    assert "zz-broken" in text


def test_runs_that_all_cannot_be_read_are_an_error(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"summary\.json"):
        write_comparison([sweep / "cells" / "zz-broken"], tmp_path / "c.html")
    assert not list(tmp_path.iterdir())


def test_the_page_is_well_formed_and_loads_nothing(page: tuple[str, Page]) -> None:
    _assert_loads_nothing(*page)
    assert len([tag for tag, _ in page[1].elements if tag == "script"]) == 1


def test_a_mean_carries_its_interval_by_hand(page: tuple[str, Page]) -> None:
    # two repetitions 0.01 apart: half-width = t(0.975; 1) * 0.01 / 2 = 12.7062 * 0.005 = 6.35 %
    text = " ".join(page[1].text.split())
    assert "± 6.4 %" in text
    assert "by Student's t" in text


def test_repetitions_show_the_largest_epsilon_of_theirs(tmp_path: Path) -> None:
    for seed, factor in ((0, 1.0), (1, 0.5)):
        cell = vary(write_run(tmp_path / f"cell-{seed}", mode="distributed", rounds=4), seed=seed)
        summary = json.loads((cell / "summary.json").read_text())
        for views in summary["epsilon"].values():
            views |= {accountant: value * factor for accountant, value in views.items()}
        (cell / "summary.json").write_text(json.dumps(summary))
    (group,) = read_runs([tmp_path]).groups()
    spent = [member.epsilon for member in group]
    assert len(set(spent)) == 2
    assert _group_row(group, [], 0)["cells"][0]["value"] == max(spent)


def test_a_promise_is_the_plans_whatever_was_spent(tmp_path: Path) -> None:
    cell = write_run(tmp_path / "cell", mode="distributed", rounds=4)
    summary = json.loads((cell / "summary.json").read_text())
    summary["epsilon"]["sum_c1"] = {"pld": 3.0, "rdp": 3.5}
    (cell / "summary.json").write_text(json.dumps(summary))
    (promise,) = _promises(read_runs([tmp_path]))
    assert promise["epsilon"] == 9.99


def test_the_settings_that_differ_are_a_table(page: tuple[str, Page]) -> None:
    section = page[0].split("What differs in their configurations")[1].split("</section>")[0]
    for words in ("privacy.mode", "privacy.epsilon", "run.seed", ">distributed</td>"):
        assert words in section, words
    assert "secagg.threshold" not in section


def test_every_figure_and_the_table_bring_their_data(page: tuple[str, Page]) -> None:
    links = {a["download"]: str(a["href"]) for t, a in page[1].elements if t == "a" and a.get("download")}
    assert {"runs.csv", "utility_by_epsilon.csv", "rounds_1.csv", "rounds_10.csv"} <= links.keys()
    table = base64.b64decode(links["runs.csv"].split(",")[1]).decode()
    rows = list(csv.DictReader(io.StringIO(table)))
    assert len(rows) == 9
    assert {row["mode"] for row in rows} == {"none", "central", "distributed"}
    assert next(row["epsilon"] for row in rows if row["mode"] == "none") == ""
    points = base64.b64decode(links["utility_by_epsilon.csv"].split(",")[1]).decode()
    values = {float(row["y"]) for row in csv.DictReader(io.StringIO(points)) if "TSTR" in row["panel"]}
    assert {float(row["tstr_cnn"]) for row in rows} <= values


def test_every_budget_can_be_chosen_and_the_baseline_belongs_to_all(page: tuple[str, Page]) -> None:
    options = [a["value"] for t, a in page[1].elements if t == "option"]
    assert options == ["all", "1", "10"]
    assert {a["data-epsilon"] for _, a in page[1].elements if "data-epsilon" in a} == {"1", "10", "inf"}


def test_without_a_script_nothing_is_hidden(page: tuple[str, Page]) -> None:
    assert not [a for _, a in page[1].elements if "hidden" in a]


def test_what_is_private_stays_out(sweep: Path, tmp_path: Path) -> None:
    cell = shutil.copytree(sweep / "cells" / "none-0", tmp_path / "a" / "run")
    (cell / "attacks.json").write_text(json.dumps({"membership": {"secret_attack": {"auc": 0.987654}}}))
    source = write_comparison([cell, sweep], tmp_path / "c.html").read_text()
    assert "987654" not in source
    assert "0.123456" not in source  # the training loss of the synthetic run


def test_hostile_labels_are_shown_and_never_run(tmp_path: Path) -> None:
    for index, word in enumerate(("a", "</script><b onclick=alert(1)>")):
        run = write_run(tmp_path / str(index), rounds=2)
        config = (run / "config.toml").read_text()
        (run / "config.toml").write_text(config.replace('name = "digits"', f"name = '''{word}'''"))
    source = write_comparison([tmp_path], tmp_path / "c.html").read_text()
    parsed = Page(source)
    _assert_loads_nothing(source, parsed)
    assert not [tag for tag, _ in parsed.elements if tag == "b"]
    assert "onclick=alert(1)" in parsed.text


def test_runs_that_are_alike_in_all_settings_say_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, rounds=2)
    parsed = Page(write_comparison([tmp_path], tmp_path / "c.html").read_text())
    text = " ".join(parsed.text.split())
    assert "Their configurations are the same" in text
    assert "± " in text


@pytest.mark.parametrize(("worst", "scale"), [(9.0, "linear"), (200.0, "log")])
def test_one_bad_run_does_not_squeeze_the_others_to_a_line(
    worst: float, scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, fid in (("a", 5.0), ("b", 6.0), ("c", worst)):
        path = write_run(tmp_path / name, rounds=2) / "summary.json"
        summary = json.loads(path.read_text())
        summary["metrics"]["fid_lenet84_digits"] = fid
        path.write_text(json.dumps(summary))
    scales: dict[str, str] = {}
    honest = compare_figures._value_axis

    def watched(axes: Axes, key: str) -> None:
        honest(axes, key)
        scales[key] = axes.get_yscale()

    monkeypatch.setattr(compare_figures, "_value_axis", watched)
    write_comparison([tmp_path], tmp_path / "c.html")
    assert scales["fid_lenet84_digits"] == scale


def test_a_copy_of_a_run_is_no_second_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        ledger = write_run(tmp_path / name, rounds=2) / "ledger.jsonl"
        ledger.write_text(json.dumps({"run_id": name * 32}) + "\n" + ledger.read_text())
    shutil.copytree(tmp_path / "a", tmp_path / "a_copy")
    found = read_runs([tmp_path])
    assert [member.folder.name for member in found.members] == ["a", "b"]
    assert found.left_out == (
        f"{tmp_path / 'a_copy'}: the same run as {tmp_path / 'a'}, by the id in its ledger; it counts once",
    )
    (tmp_path / "a" / "ledger.jsonl").write_text("torn")  # what names no run is told apart by its folder
    (tmp_path / "b" / "ledger.jsonl").write_text('{"run_id": 7}\n')
    assert len(read_runs([tmp_path]).members) == 3


def test_one_run_is_one_run_and_its_time_is_whole_minutes(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", rounds=2) / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 60}))
    text = " ".join(Page(write_comparison([tmp_path], tmp_path / "c.html").read_text()).text.split())
    assert "1 run, mode distributed at ε = 10" in text
    assert "1 min" in text
    assert "60.0 s" not in text


def test_a_private_run_in_its_first_round_is_no_baseline_without_privacy(tmp_path: Path) -> None:
    begun = write_run(tmp_path / "begun", rounds=2)
    for name in ("metrics.jsonl", "summary.json"):
        (begun / name).unlink()
    (write_run(tmp_path / "lost", rounds=2) / "ledger.jsonl").unlink()
    text = " ".join(Page(write_comparison([tmp_path], tmp_path / "c.html").read_text()).text.split())
    assert "Without any privacy guarantee" not in text
    assert "distributed · no round finished yet" in text
    assert "lost, ledger.jsonl is missing: nothing here can be recomputed" in text


def test_cells_of_two_sweeps_with_one_name_are_told_apart(tmp_path: Path) -> None:
    for sweep in ("first", "second"):
        write_run(tmp_path / sweep / "cells" / "seed-0", rounds=2)
    write_run(tmp_path / "first" / "cells" / "seed-1", rounds=2)
    found = read_runs([tmp_path, tmp_path / "first" / ".." / "first"])  # one run by two ways is one run
    assert [member.place for member in found.members] == [
        "first/cells/seed-0",
        "seed-1",
        "second/cells/seed-0",
    ]
    assert len({member.label for member in found.members}) == 3  # a name is also a folder of event files


def test_a_setting_that_goes_with_epsilon_mode_or_clients_is_no_line_of_its_own(tmp_path: Path) -> None:
    def member(mode: str, epsilon: str, clients: str, seed: str, rate: str = "1") -> Member:
        settings = {
            "privacy.mode": mode,
            "privacy.epsilon": epsilon,
            "federation.clients_per_round": clients,
            "federation.clients": clients,
            "warmup.noise_multiplier": f"{8 / float(epsilon):g}",
            "audit.canaries": "200" if mode == "central" else "0",
            "modes.none.learning_rate": rate,
            "run.seed": seed,
        }
        run = SimpleNamespace(mode=mode)
        return Member(label="", place="", folder=tmp_path, run=cast(RunFolder, run), settings=settings)

    grid = [
        member(mode, epsilon, clients, seed)
        for mode in ("central", "local")
        for epsilon in ("1", "10")
        for clients in ("10", "30")
        for seed in ("0", "1")
    ]
    keys = tuple(grid[0].settings)
    found = RunSet(members=tuple(grid), differing=keys, left_out=())
    lines = found.groups(over_epsilon=True)
    assert [series_label(line[0], found) for line in lines] == [
        "central · 10 clients",
        "central · 30 clients",
        "local · 10 clients",
        "local · 30 clients",
    ]
    assert {len(line) for line in lines} == {4}
    assert {len(group) for group in found.groups()} == {2}  # the seeds
    # what differs beside a seed is no repetition
    other = RunSet(
        members=(grid[0], member("central", "1", "10", "1", rate="2")), differing=keys, left_out=()
    )
    assert len(other.groups()) == 2
