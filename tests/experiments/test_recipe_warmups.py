"""One warm-up for all cells that agree on it: who shares one, what a cell pays, what may not be shared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from experiments.recipe_ablation import run, warmups
from experiments.recipe_ablation.warmups import Stem, begin, begin_at
from secure_fed_diffusion import config
from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.federation import checkpoint
from secure_fed_diffusion.federation.prepare import prepare
from secure_fed_diffusion.sweep.command import find_places
from secure_fed_diffusion.sweep.grid import Cell
from secure_fed_diffusion.sweep.process import Place
from tests.federation.runs import Watcher, finish
from tests.federation.small import CONFIG


def place(root: Path, name: str, *overrides: str) -> Place:
    settings = config.parse(CONFIG, ["privacy.mode=central", "run.workers=1", *overrides])
    return Place(
        root=root, cell=Cell(name=name, axes={"variant": name}, overrides=overrides), settings=settings
    )


def name(cell: Place) -> str:
    return Stem(settings=cell.settings, root=Path()).name


def charges(cell: Path) -> list[tuple[int, int, str]]:
    lines = [json.loads(line) for line in (cell / "ledger.jsonl").read_text().splitlines()]
    return [(line["client_id"], line["round"], line["mechanism"]) for line in lines[1:]]


def test_variants_of_the_private_phase_share_a_warm_up_and_variants_of_the_warm_up_do_not(
    tmp_path: Path,
) -> None:
    cells = find_places(run.HERE / "grid.toml", tmp_path, full=False)
    stems: dict[str, set[str]] = {}
    for cell in cells:
        if cell.settings.warmup.rounds:
            stems.setdefault(name(cell), set()).add(str(cell.cell.axes["variant"]))
    alone = {"class means alone", "whole process", "predict the noise", "EDM, churn 40", "guidance 0.5"}
    assert sum(members == {variant} for members in stems.values() for variant in alone) == 6 * len(alone)
    shared = [members for members in stems.values() if not members <= alone]
    assert len(shared) == 6  # three seeds, two budgets
    everyone = {str(cell.cell.axes["variant"]) for cell in cells}
    assert all(members == everyone - alone - {"no warm-up"} for members in shared)


@pytest.mark.parametrize(
    "override",
    [
        "warmup.steps=3",
        "warmup.covariances.draws=1",
        "run.seed=1",
        "privacy.epsilon=9.0",
        "model.channels=[4, 4]",
        "data.beta=0.1",
        "diffusion.label_dropout=0.1",
        "federation.clients_per_round=6",
        "secagg.rounds_per_setup=2",
    ],
)
def test_what_decides_a_warm_up_is_in_its_name(override: str, tmp_path: Path) -> None:
    assert name(place(tmp_path, "a")) != name(place(tmp_path, "b", override))


def test_a_warm_up_that_is_measured_is_of_cells_that_measure_alike(tmp_path: Path) -> None:
    cells = [
        place(tmp_path, f"{steps}", f"sampler.steps={steps}", f"evaluation.after_warmup={measured}")
        for measured in ("false", "true")
        for steps in (2, 3)
    ]
    names = [name(cell) for cell in cells]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_where_files_lie_is_not_in_its_name(tmp_path: Path) -> None:
    assert name(place(tmp_path, "a")) == name(place(tmp_path, "b", f"data.directory={tmp_path}"))


def test_a_cell_begins_with_its_stems_sums_and_weights_and_pays_for_them(tmp_path: Path) -> None:
    plain = place(tmp_path, "epsilon-0.1")
    other = place(
        tmp_path, "epsilon-0.2", "modes.central.server.optimizer=sgd", "modes.central.learning_rate=0.1"
    )
    begin([plain, other], tmp_path / "stems", workers=1)
    stem = Stem(settings=plain.settings, root=tmp_path / "stems")
    warm = checkpoint.load(stem.folder.checkpoint)
    assert warm is not None
    assert warm.finished_round == plain.settings.warmup.rounds == 1
    for cell in (plain, other):
        assert charges(cell.folder) == charges(stem.folder.root) != []
        started = checkpoint.load(cell.folder / "checkpoint")
        assert started is not None
        assert torch.equal(started.state["weights"], warm.state["weights"])
        assert torch.equal(started.state["average"]["average"], warm.state["weights"])
        assert torch.equal(started.state["classes"]["counts"], warm.state["classes"]["counts"])
    began = [json.loads((c.folder / "ledger.jsonl").read_text().splitlines()[0]) for c in (plain, other)]
    assert began[0]["run_id"] != began[1]["run_id"]

    again = prepare(
        other.settings, other.folder, config_text=other.config.read_text(encoding="utf-8"), resume=True
    )
    watcher = Watcher()
    summary = finish(again, watcher)
    assert summary["finished"]
    assert [record["round"] for record in watcher.records] == [2, 3, 4]
    assert summary["epsilon"]["released_model"]["pld"] <= 10.0
    whole = finish(
        prepare(other.settings, tmp_path / "alone", config_text=config.dump(other.settings)), Watcher()
    )
    assert summary["epsilon"] == whole["epsilon"]
    assert sorted(charges(other.folder)) == sorted(charges(tmp_path / "alone"))
    verify(other.folder / "ledger.jsonl", head=summary["ledger_head"])


def test_a_warm_up_is_run_once_and_a_begun_cell_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = place(tmp_path, "first"), place(tmp_path, "second", "modes.central.rounds=2")
    begin([first], tmp_path / "stems", workers=1)
    before = (first.folder / "ledger.jsonl").read_bytes()
    monkeypatch.setattr(warmups, "warm_up", lambda stem: pytest.fail("a second warm-up"))
    begin([first, second], tmp_path / "stems", workers=1)
    assert (first.folder / "ledger.jsonl").read_bytes() == before
    assert charges(second.folder) == charges(first.folder)


def test_a_warm_up_of_another_mechanism_is_refused_and_nothing_is_begun(tmp_path: Path) -> None:
    plain, noisier = place(tmp_path, "plain"), place(tmp_path, "noisier", "warmup.noise_multiplier=9.0")
    begin([plain], tmp_path / "stems", workers=1)
    stem = Stem(settings=plain.settings, root=tmp_path / "stems")
    with pytest.raises(RunError, match=r"noisier would release prototypes by Mechanism.*, seed-0.* did by"):
        begin_at(stem, noisier)
    assert not noisier.begun


def test_a_warm_up_that_lost_its_state_is_no_beginning(tmp_path: Path) -> None:
    plain, second = place(tmp_path, "plain"), place(tmp_path, "second", "modes.central.rounds=2")
    begin([plain], tmp_path / "stems", workers=1)
    shutil.rmtree(Stem(settings=plain.settings, root=tmp_path / "stems").folder.checkpoint)
    with pytest.raises(RunError, match="has no checkpoint: remove it"):
        begin([second], tmp_path / "stems", workers=1)
    assert not second.begun


def test_a_cell_without_a_warm_up_is_left_to_the_sweep(tmp_path: Path) -> None:
    bare = place(tmp_path, "bare", "warmup.draws=0")
    begin([bare], tmp_path / "stems", workers=1)
    assert not bare.begun
    assert list((tmp_path / "stems").iterdir()) == []
