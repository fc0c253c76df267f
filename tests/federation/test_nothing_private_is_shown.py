"""Everything that a run writes or prints is a function of the released sums and of what is public.

Two whole runs of `sfd run`: the second has other private records (other images, other labels, another
number of them), trains on them as it would, and hands over the FIRST run's contributions.  Keys, masks
and the server's noise are drawn from one frozen stream and the clock is frozen, so whatever is shown must
be the same byte for byte.  A loss, a clip count, a sample size or a class count of private records that
reached a file or the console would differ.

Excluded, and why: what is derived from the released sums themselves (weights, samples, metrics) is equal
here by construction, that it is noised and charged is for the accounting to show; the time that a client
took, which does depend on how many records it drew (docs/privacy.md does not claim it), is frozen; the
signing keys are no data.  A frame of a real run is masked, which tests/secagg shows.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion import cli
from secure_fed_diffusion.commands import run as run_command
from secure_fed_diffusion.data.datasets import Dataset, ImageSet, load
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.federation import folder as folder_module
from secure_fed_diffusion.federation import prepare as prepare_module
from secure_fed_diffusion.federation import rounds as rounds_module
from secure_fed_diffusion.federation import run as run_module
from secure_fed_diffusion.federation import together, workroom
from secure_fed_diffusion.federation.contribution import Contributor
from tests.federation.small import CONFIG, seeded

Contributions = dict[tuple[int, int, int], np.ndarray]


@dataclass(frozen=True, slots=True)
class Shown:
    """All that a run showed: every file of its folder, and the console."""

    files: dict[str, bytes]
    console: str


def other_private_records(dataset: Dataset) -> Dataset:
    """Return the data set with other private records and the same public ones: fewer, darker, relabelled."""
    kept = dataset.train.subset(slice(0, len(dataset.train) - 37))
    train = ImageSet(255 - kept.images, (kept.labels * 3 + 1) % dataset.n_classes)
    return replace(dataset, train=train)


def sfd_run(
    folder: Path,
    mode: str,
    dataset: Dataset,
    contributions: Contributions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    leak: Callable[[pytest.MonkeyPatch], None] | None = None,
) -> Shown:
    """Run the command; fill `contributions`, or where they are given hand those over.

    Clients are computed as in any run: together where that is what a run does.
    """
    replaying = bool(contributions)
    alone, beside, prepare = Contributor.vector, together.vectors, prepare_module.prepare
    protocol = seeded("protocol")
    groups: list[int] = []

    def handed_over(contributor: Contributor, place: tuple[int, int], computed: Any) -> Any:
        key = contributor.client_id, *place
        return contributions[key] if replaying else contributions.setdefault(key, computed)

    def frozen(contributor: Contributor, *place: int) -> Contributor:
        key = contributor.client_id, *place
        return replace(contributor, entropy=seeded("noise", *key), coins=seeded("coins", *key))

    def vector(self: Contributor, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
        computed = alone(frozen(self, number, attempt), release, weights, number=number, attempt=attempt)
        return handed_over(self, (number, attempt), computed)

    def vectors(contributors: Any, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
        groups.append(len(contributors))
        still = [frozen(each, number, attempt) for each in contributors]
        computed = beside(still, release, weights, number=number, attempt=attempt)
        pairs = zip(contributors, computed, strict=True)
        return [handed_over(each, (number, attempt), found) for each, found in pairs]

    def prepared(*args: Any, **kwargs: Any) -> Any:
        return prepare(*args, **kwargs, entropy=protocol, coins=protocol)

    config = folder.parent / "config.toml"
    config.write_text(CONFIG)
    words = ["sfd", "run", str(config), "--out", str(folder), "--set", f"privacy.mode={mode}"]
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "load", lambda settings: dataset)
        patch.setattr(prepare_module, "prepare", prepared)
        patch.setattr(folder_module, "system", seeded("run id"))
        patch.setattr(Contributor, "vector", vector)
        patch.setattr(workroom, "vectors", vectors)
        patch.setattr(workroom, "system", protocol)  # as if nothing were injected
        patch.setattr(time, "perf_counter", itertools.count(0.0, 1e-3).__next__)
        patch.setattr(sys, "argv", words)
        if leak is not None:
            leak(patch)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert not ended.value.code
    assert set(groups) == ({5} if mode in ("distributed", "central") else set())
    said = capsys.readouterr()
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return Shown(files, (said.out + said.err).replace(str(folder.parent), ""))


def differing(first: Shown, second: Shown) -> list[str]:
    """Name what is not the same."""
    names = sorted(first.files.keys() | second.files.keys())
    found = [name for name in names if first.files.get(name) != second.files.get(name)]
    return found + ["console"] * (first.console != second.console)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DataSettings(train_limit=300))


TWO = tuple[Path, Path]


@pytest.fixture
def folders(tmp_path: Path) -> TWO:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    return first / "run", second / "run"


@pytest.mark.parametrize(
    "mode",
    ["distributed", *(pytest.param(m, marks=pytest.mark.slow) for m in ("central", "local", "client"))],
)
def test_other_private_records_under_the_same_sums_change_nothing_that_is_shown(
    mode: str,
    digits: Dataset,
    folders: TWO,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sums: Contributions = {}
    first = sfd_run(folders[0], mode, digits, sums, monkeypatch, capsys)
    second = sfd_run(folders[1], mode, other_private_records(digits), sums, monkeypatch, capsys)
    assert {"metrics.jsonl", "ledger.jsonl", "summary.json", "server_view.json", "report.html"} <= set(
        first.files
    )
    assert "round 1/" in first.console
    assert differing(first, second) == []


def _sample_size(patch: pytest.MonkeyPatch) -> None:
    honest = rounds_module.record

    def record(plan: Any, ledger: Any, outcome: Any) -> dict[str, Any]:
        return honest(plan, ledger, outcome) | {"drawn": LAST["drawn"]}

    patch.setattr(run_module, "record", record)


def _class_counts(patch: pytest.MonkeyPatch) -> None:
    honest = run_module.summarize

    def summarize(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return honest(*args, **kwargs) | {"classes": LAST["classes"]}

    patch.setattr(run_module, "summarize", summarize)


def _training_loss(patch: pytest.MonkeyPatch) -> None:
    honest = run_command._announce

    def announce(*args: Any) -> None:
        honest(*args)
        print(f"loss {LAST['brightness']:.3f}")

    patch.setattr(run_command, "_announce", announce)


LAST: dict[str, Any] = {}  # what the private records of the run in progress have, for the leaks below


@pytest.mark.slow
@pytest.mark.parametrize(
    ("leak", "place"),
    [(_sample_size, "metrics.jsonl"), (_class_counts, "summary.json"), (_training_loss, "console")],
)
def test_a_figure_of_private_records_that_is_shown_is_noticed(
    leak: Callable[[pytest.MonkeyPatch], None],
    place: str,
    digits: Dataset,
    folders: TWO,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = []
    sums: Contributions = {}
    for folder, dataset in zip(folders, (digits, other_private_records(digits)), strict=True):
        LAST["drawn"] = len(dataset.train) // 4
        LAST["classes"] = np.bincount(dataset.train.labels).tolist()
        LAST["brightness"] = float(dataset.train.images.mean())
        shown.append(sfd_run(folder, "distributed", dataset, sums, monkeypatch, capsys, leak))
    assert place in differing(*shown)
