"""Reads several runs at once: where they are, how their configurations differ, which repeat each other.

A folder is a run if it holds a `config.toml` beside a `metrics.jsonl`, a `ledger.jsonl` or a `summary.json`;
any other folder (a sweep's, say) is looked through, three levels down.  A run that cannot be read, and a copy
of another one, is left out by name, never silently.  Nothing is verified; `sfd audit` does that, one run at a
time.

    found = read_runs([Path("runs/a"), Path("runs/sweep")])
    [member.label for member in found.members], found.differing, found.left_out
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secure_fed_diffusion.errors import RunError, WrongFolderError
from secure_fed_diffusion.reporting.run_folder import RunFolder, read_run
from secure_fed_diffusion.reporting.wording import MODES, NO_GUARANTEE, bound, number

_DEPTH = 3
_EVIDENCE = ("metrics.jsonl", "ledger.jsonl", "summary.json")
SEEDS = frozenset({"run.seed", "data.seed"})
"""Settings that make a repetition of a run, not another run."""
_WITHOUT_EFFECT = frozenset(
    {
        "data.directory",  # paths of a machine: what lies there is checked by its digest, or counts alone
        "evaluation.inception_weights",
        "privacy.shared_ledger",
        "run.device",
        "run.threads",
        "run.workers",
        "evaluation.attacks",
        "evaluation.after_warmup",
    }
)
_BASELINE = "inf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One run among others; `settings` are the texts of its configuration by dotted key.

    `label` and `place` are its own among them; a place is as much of the end of its path as that takes: the
    names of folders above it where two runs' own are alike.
    """

    label: str
    place: str
    folder: Path
    run: RunFolder
    settings: Mapping[str, str]

    @property
    def epsilon(self) -> float | None:
        """Return what the run has spent in its guarded view, None without a guarantee."""
        return None if self.run.mode == "none" else bound(self.run.epsilon, self.run.guard_view)[0]

    @property
    def guarantee(self) -> float | None:
        """Return what the run was promised in its guarded view, None without a guarantee."""
        return self.run.guarantee[0]

    @property
    def budget_key(self) -> str:
        """Return the ε that the run may spend as text, or "inf" for the baseline."""
        budget = None if self.run.mode == "none" else self.run.budget
        return _BASELINE if budget is None else f"{budget:g}"

    @property
    def clients(self) -> int | None:
        """Return the number of clients, where it is known."""
        known = number(self.run.fact("clients"))
        if known is None:
            known = _as_number(self.settings.get("federation.clients"))
        return None if known is None else int(known)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSet:
    """Runs to be shown side by side; `differing` are the keys whose values are not all one."""

    members: tuple[Member, ...]
    differing: tuple[str, ...]
    left_out: tuple[str, ...]

    def groups(self, *, over_epsilon: bool = False) -> list[tuple[Member, ...]]:
        """Return runs that differ in their seeds alone, or with `over_epsilon` in seeds and by their ε."""
        apart = [*_telling(self.members, self.differing), *([] if over_epsilon else ["privacy.epsilon"])]
        found: dict[tuple[str, ...], list[Member]] = {}
        for member in self.members:
            key = (member.run.mode, *(member.settings.get(name, "") for name in apart))
            found.setdefault(key, []).append(member)
        return [tuple(group) for group in found.values()]

    @property
    def budgets(self) -> list[str]:
        """Return the budgets of the private runs, ascending."""
        return sorted({m.budget_key for m in self.members} - {_BASELINE}, key=float)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the folders of all runs at or below the paths, each once, in the order given.

    Raises: WrongFolderError when a path holds no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        here = list(_runs_in(path, _DEPTH))
        if not here:
            raise WrongFolderError(
                f"{path}: no run's folder, and none in it: a run has a config.toml beside its ledger"
            )
        for folder in here:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def is_run(path: Path) -> bool:
    """Return whether a folder is a run's own."""
    return (path / "config.toml").is_file() and any((path / name).exists() for name in _EVIDENCE)


def holds_runs(path: Path) -> bool:
    """Return whether a folder is no run itself, but holds some, as a sweep's does."""
    return not is_run(path) and next(_runs_in(path, _DEPTH), None) is not None


def read_runs(paths: Sequence[Path]) -> RunSet:
    """Read all runs at or below the paths.

    Raises: RunError when none can be read.
    """
    members: list[Member] = []
    left_out: list[str] = []
    folders: dict[str, Path] = {}  # by the run's id
    for folder in find_runs(paths):
        try:
            run = read_run(folder)
        except RunError as error:
            left_out.append(str(error))
            continue
        if run.run_id is not None and folders.setdefault(run.run_id, folder) != folder:
            same = folders[run.run_id]
            left_out.append(f"{folder}: the same run as {same}, by the id in its ledger; it counts once")
            continue
        members.append(Member(label="", place="", folder=folder, run=run, settings=dict(_flat(run.config))))
    if not members:
        raise RunError(f"none of the runs can be read: {left_out[0]}")
    members.sort(key=_order)
    differing = _differing(members)
    return RunSet(members=_labelled(members, differing), differing=differing, left_out=tuple(left_out))


def series_label(member: Member, found: RunSet) -> str:
    """Return the name of a run's setting without ε and seeds: what a line of a figure is called."""
    return " · ".join([member.run.mode, *_extras(member, _telling(found.members, found.differing))])


def _runs_in(path: Path, depth: int) -> Iterator[Path]:
    if is_run(path):
        yield path
    elif path.is_dir() and depth > 0:
        for child in sorted(path.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _runs_in(child, depth - 1)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) if value else "(empty)"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _as_number(text: str | None) -> float | None:
    try:
        return number(float(text or ""))
    except ValueError:
        return None


def _order(member: Member) -> tuple[int, float, int, str]:
    modes = list(MODES)
    mode = modes.index(member.run.mode) if member.run.mode in modes else len(modes)
    budget = float(member.budget_key)
    return mode, budget, member.clients or 0, str(member.folder)


def _differing(members: Sequence[Member]) -> tuple[str, ...]:
    """Return the keys that differ, leaving out those that change nothing that was measured."""
    keys = dict.fromkeys(key for member in members for key in member.settings)
    return tuple(
        key
        for key in keys
        if key not in _WITHOUT_EFFECT and len({member.settings.get(key) for member in members}) > 1
    )


def _telling(members: Sequence[Member], differing: Sequence[str]) -> tuple[str, ...]:
    """Return the settings that tell two runs of one mode and ε apart, clients first, as few as will do.

    What a sweep sets along with its ε, its mode or its clients tells nothing that these do not.
    """
    chosen: list[str] = []
    for key in sorted(differing, key=lambda name: name != "federation.clients"):
        places: dict[tuple[str | None, ...], set[str | None]] = {}
        for member in members:
            known = ("privacy.mode", "privacy.epsilon", *chosen)
            place = tuple(member.settings.get(name) for name in known)
            places.setdefault(place, set()).add(member.settings.get(key))
        if key not in SEEDS and any(len(values) > 1 for values in places.values()):
            chosen.append(key)
    return tuple(chosen)


def _extras(member: Member, telling: Sequence[str]) -> list[str]:
    """Return the first two settings that tell a run from others of its mode and ε."""
    words = []
    for key in [key for key in telling if key in member.settings][:2]:
        value = member.settings[key]
        words.append(f"{value} clients" if key == "federation.clients" else f"{key.split('.')[-1]} {value}")
    return words


def _labelled(members: Sequence[Member], differing: Sequence[str]) -> tuple[Member, ...]:
    labels = []
    telling = _telling(members, differing)
    for member in members:
        parts = [member.run.mode]
        if member.budget_key != _BASELINE:
            parts.append(f"ε ≤ {member.budget_key}")
        elif member.run.mode != "none":
            parts.append("no round finished yet" if member.run.begun_alone else NO_GUARANTEE)
        parts += _extras(member, telling)
        parts += [
            f"seed {member.settings[key]}" for key in differing if key in SEEDS & member.settings.keys()
        ][:1]
        labels.append(" · ".join(parts))
    named = []
    for member, label, place in zip(members, labels, _places([m.folder for m in members]), strict=True):
        unique = label if labels.count(label) == 1 else f"{label} ({place})"
        named.append(replace(member, label=unique, place=place))
    return tuple(named)


def _places(folders: Sequence[Path]) -> list[str]:
    """Return the shortest end of each path that no other path has: sweeps name their cells alike."""
    parts = [folder.resolve().parts for folder in folders]
    lengths = range(1, max(len(path) for path in parts) + 1)
    shared = {length: Counter(path[-length:] for path in parts) for length in lengths}
    return [
        str(Path(*next(path[-length:] for length in lengths if shared[length][path[-length:]] == 1)))
        for path in parts
    ]
