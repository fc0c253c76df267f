"""A checkpoint is the old one or the new one, never half of each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.federation import checkpoint

STATE = {"weights": torch.arange(5.0), "optimizer": {"step": 3, "lists": [torch.ones(2)]}}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "checkpoint", finished_round=7, state=STATE)
    finished, state, _ = checkpoint.load(tmp_path / "checkpoint")
    assert finished == 7
    assert torch.equal(state["weights"], STATE["weights"])
    assert state["optimizer"]["step"] == 3


def test_where_no_round_has_finished_there_is_nothing(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    assert checkpoint.load(tmp_path / "nowhere") is None


def test_the_newest_replaces_the_older_and_leaves_no_scrap(tmp_path: Path) -> None:
    for number in (1, 2):
        checkpoint.save(tmp_path, finished_round=number, state=STATE)
    assert checkpoint.load(tmp_path)[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]


@pytest.mark.parametrize("place", ["torch.save", "os.fsync"])
def test_a_process_killed_while_it_writes_leaves_the_old_one(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, finished_round=1, state=STATE)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, die)
        with pytest.raises(Killed):
            checkpoint.save(tmp_path, finished_round=2, state={"weights": torch.zeros(5)})
    finished, state, _ = checkpoint.load(tmp_path)
    assert finished == 1
    assert torch.equal(state["weights"], STATE["weights"])
    checkpoint.save(tmp_path, finished_round=2, state=STATE)  # the scrap is no hindrance
    assert checkpoint.load(tmp_path)[0] == 2


@pytest.mark.parametrize("kept_bytes", [0, 10, 500])
def test_a_broken_checkpoint_is_an_error_that_names_the_file(kept_bytes: int, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, finished_round=1, state=STATE)
    path = tmp_path / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:kept_bytes])
    with pytest.raises(RunError, match=r"state\.pt cannot be read"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_that_carries_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"finished_round": 1, "state": Trap()}, tmp_path / checkpoint.FILE)
    with pytest.raises(RunError, match="cannot be read"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_without_its_fields_is_refused(tmp_path: Path) -> None:
    torch.save({"state": {}}, tmp_path / checkpoint.FILE)
    with pytest.raises(RunError, match="KeyError"):
        checkpoint.load(tmp_path)
