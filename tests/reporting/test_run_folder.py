from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.reporting.run_folder import read_run


def test_a_finished_run_is_read_whole(finished_run: Path) -> None:
    run = read_run(finished_run)
    assert run.mode == "distributed"
    assert run.finished
    assert run.guard_view == "sum_c1"
    assert run.budget == 10.0
    assert [index for index, _ in run.samples] == list(range(0, 41, 5))
    assert run.fid_key == "fid_lenet84_digits"
    assert run.fid_floor == 1.7
    assert list(run.epsilon) == ["raw_update", "sum_c1", "sum_c0", "released_model"]
    assert run.ledger_lines == 246


def test_a_line_that_a_crash_cut_off_is_left_out(new_run: Callable[..., Path]) -> None:
    folder = new_run(rounds=5)
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"round": 6, "epsi')
    assert [line["round"] for line in read_run(folder).rounds] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("bad", ["{", "[]", '{"kind": "gradient"}', '{"round": "x"}'])
def test_a_bad_line_in_the_middle_is_named(new_run: Callable[..., Path], bad: str) -> None:
    folder = new_run(rounds=2)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[1] = bad
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    with pytest.raises(RunError, match="line 2"):
        read_run(folder)


def test_the_newest_attempt_of_a_round_counts(new_run: Callable[..., Path]) -> None:
    folder = new_run(rounds=2)
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"round": 2, "attempt": 1}\n')
    rounds = read_run(folder).rounds
    assert len(rounds) == 3
    assert rounds[-1]["attempt"] == 1


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.toml"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.toml", "= broken"),
        ("summary.json", "{"),
        ("summary.json", "[1]"),
        ("server_view.json", "nope"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(new_run: Callable[..., Path], name: str, content: str) -> None:
    folder = new_run(rounds=1)
    (folder / name).write_text(content)
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        read_run(folder)


def test_without_a_named_guard_the_declared_colluders_choose_the_view(new_run: Callable[..., Path]) -> None:
    folder = new_run(rounds=1)
    (folder / "metrics.jsonl").unlink()
    assert read_run(folder).guard_view == "sum_c1"
