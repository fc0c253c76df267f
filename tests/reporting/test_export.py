from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from secure_fed_diffusion import cli
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.reporting import export
from secure_fed_diffusion.reporting.run_set import read_runs
from tests.reporting.synthetic_run import set_in, write_run


def _sfd(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sfd", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_a_row_is_a_round_and_holds_what_it_wrote_down(finished_run: Path, tmp_path: Path) -> None:
    rows = export.tidy_rows(read_runs([finished_run]))
    path = export.write_csv(rows, tmp_path / "a.csv")
    with path.open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert [int(row["round"]) for row in table] == [line["round"] for line in lines]
    assert float(table[-1]["epsilon_sum_c1_pld"]) == lines[-1]["epsilon"]["sum_c1"]["pld"]
    assert float(table[-1]["tstr_cnn"]) == lines[-1]["tstr_cnn"]
    assert table[1]["tstr_cnn"] == ""
    assert (table[4]["n_cohort"], table[4]["n_survivors"]) == ("6", "5")


def test_the_settings_in_which_runs_differ_are_columns(new_run: Callable[..., Path], tmp_path: Path) -> None:
    first, second = new_run(rounds=2), write_run(tmp_path / "other", rounds=2)
    set_in(second, "data.beta=5.0", "secagg.threshold=6")
    rows = export.tidy_rows(read_runs([first, second]))
    assert {(row["folder"], row["data.beta"], row["secagg.threshold"]) for row in rows} == {
        ("run", 0.5, 5),
        ("other", 5, 6),
    }
    assert not {"privacy.mode", "data.name", "federation.clients"} & rows[0].keys()  # the same in both


def test_what_is_private_is_no_column(new_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = new_run(rounds=2)
    rows = export.tidy_rows(read_runs([folder]))
    assert not [name for row in rows for name in row if "training" in name or "clip" in name]
    assert "0.123456" not in export.write_csv(rows, tmp_path / "a.csv").read_text()


def test_no_guarantee_is_an_empty_cell_and_never_zero(new_run: Callable[..., Path]) -> None:
    rows = export.tidy_rows(read_runs([new_run(mode="central", rounds=2)]))
    assert [row["epsilon_raw_update_pld"] for row in rows] == [None, None, None]


def test_the_command_writes_a_table_and_counts_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.csv"
    assert _sfd(monkeypatch, "export", str(finished_run), "--csv", str(out), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 41, "files": [str(out)], "left_out": []}
    assert _sfd(monkeypatch, "export", str(finished_run), "--csv", str(out)) == 0
    assert capsys.readouterr().out == f"41 rounds of 1 run: {out}\n"
    assert _sfd(monkeypatch, "export", str(finished_run)) == 2
    assert "--tensorboard" in capsys.readouterr().err


def test_a_copy_that_is_left_out_is_named_by_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], new_run: Callable[..., Path]
) -> None:
    folder = new_run(rounds=2)
    (folder / "ledger.jsonl").write_text('{"run_id": "a"}\n')
    copy = shutil.copytree(folder, folder.with_name("copy"))
    for words in (["report", "--out"], ["export", "--csv"]):
        out = folder.with_name(words[0])
        assert _sfd(monkeypatch, words[0], str(folder), str(copy), words[1], str(out)) == 0
        assert capsys.readouterr().err.startswith(f"sfd: left out: {copy}: the same run as {folder}")
        assert out.exists()


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"--parquet: needs the package pyarrow: .*\[export\]"):
        export.write_parquet([{"run": "a"}], tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"--tensorboard: needs the package tensorboard: .*\[export\]"):
        export.TensorBoardWriter(tmp_path / "board")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow (extra export) is not there")
def test_parquet_holds_the_same_numbers(finished_run: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    rows = export.tidy_rows(read_runs([finished_run]))
    table = parquet.read_table(export.write_parquet(rows, tmp_path / "a.parquet"))
    assert table.num_rows == 41
    assert table.column("tstr_cnn").to_pylist() == [row["tstr_cnn"] for row in rows]
    assert table.column("mode").to_pylist() == ["distributed"] * 41


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard (extra export) is not there"
)
def test_tensorboard_reads_back_the_same_numbers(finished_run: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = export.write_tensorboard(read_runs([finished_run]).members, tmp_path)
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"epsilon/sum_c1_pld", "tstr/cnn", "fid/lenet84_digits", "bytes/up"} <= set(tags)
    assert not [tag for tag in tags if "training" in tag]
    last = events.Scalars("tstr/cnn")[-1]
    lines = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert last.step == 40
    assert last.value == pytest.approx(lines[-1]["tstr_cnn"], rel=1e-6)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard (extra export) is not there"
)
def test_tensorboard_s_stamps_are_rounds_and_no_times(finished_run: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = export.write_tensorboard(read_runs([finished_run]).members, tmp_path)
    events = EventAccumulator(str(folder))
    events.Reload()
    rows = [row for tag in events.Tags()["scalars"] for row in events.Scalars(tag)]
    assert rows
    assert all(row.wall_time == row.step for row in rows)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard (extra export) is not there"
)
def test_runs_whose_names_differ_in_signs_alone_keep_folders_of_their_own(tmp_path: Path) -> None:
    for name in ("run-1", "run_1"):
        write_run(tmp_path / "runs" / name, rounds=2)
    folders = export.write_tensorboard(read_runs([tmp_path / "runs"]).members, tmp_path / "board")
    assert len(set(folders)) == 2
    assert all(len(list(folder.iterdir())) == 1 for folder in folders)


def test_a_watched_run_tells_both_observers() -> None:
    class Ear:
        def __init__(self) -> None:
            self.heard: list[object] = []

        def round(self, record: dict[str, object]) -> None:
            self.heard.append(record["round"])

        def note(self, text: str) -> None:
            self.heard.append(text)

    screen, board = Ear(), Ear()
    both = export._Both(screen, board)  # type: ignore[arg-type]
    both.note("hello")
    both.round({"round": 3})
    assert screen.heard == ["hello", 3]
    assert board.heard == [3]
