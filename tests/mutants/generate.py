"""Ask every check about every mutant, and write docs/mutants.md from the answers.

`python -m tests.mutants.generate` measures (about ten minutes of one core) and writes both files;
`python -m tests.mutants.generate --table` writes the page again from what was measured last.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path

import torch

from tests.mutants.checks import CHECKS, STOPS
from tests.mutants.laboratory import laboratory
from tests.mutants.mutants import MUTANTS

MEASURED = Path(__file__).with_name("measured.json")
PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"

Findings = dict[str, str]  # what each check found, by its name; a check that found nothing is left out
Measured = Mapping[str, Findings]  # by mutant; "" is the package as it is


def ask_all(name: str) -> Findings:
    """Return what the checks find in one mutant."""
    torch.set_num_threads(1)

    def answers() -> Iterator[tuple[str, str]]:
        with laboratory() as lab:
            for check in CHECKS.values():
                found = check.finding(lab)
                if found:
                    yield check.name, found

    with MUTANTS[name].alive() if name else nullcontext(), redirect_stdout(StringIO()):
        return dict(answers())


def measure(processes: int = 2) -> Measured:
    """Ask about the package as it is, and about every mutant."""
    names = ["", *MUTANTS]
    with ProcessPoolExecutor(processes) as pool:
        return dict(zip(names, pool.map(ask_all, names), strict=True))


def read() -> Measured:
    """Return what was measured last."""
    found: Measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    return found


def killers(found: Findings) -> list[str]:
    """Return the checks that found what is broken, without those that the broken pipeline never reached."""
    return [name for name, finding in found.items() if not finding.startswith(STOPS)]


def page(measured: Measured) -> str:
    """Return docs/mutants.md."""
    killed = {name: killers(found) for name, found in measured.items() if name and killers(found)}
    survivors = [name for name in MUTANTS if name not in killed]
    canaries = {name for name in CHECKS if name.startswith(("A0", "A1", "A3", "A6"))}
    unseen = [name for name, by in killed.items() if not canaries.intersection(by)]
    beyond = [
        name
        for name, by in killed.items()
        if any(check.startswith("A0") for check in by) and "A1 lower bound" not in by
    ]
    lines = [
        "# Mutants: would anybody notice?",
        "",
        "<!-- Written by `python -m tests.mutants.generate`; a test compares it with what was measured. -->",
        "",
        f"{len(MUTANTS)} broken versions of this package, each with one function replaced by one that a "
        "hurried developer could have written: almost all of them train on, and the report looks the same. "
        f"Every check was put to every one of them. **{len(killed)} are killed, {len(survivors)} survive.** "
        "The package as it is passes all checks.",
        "",
        "The checks run the real plan, clients, server, secure sum, ledger and auditors around a network of "
        "175 weights (`tests/mutants/laboratory.py`), with seeded streams, so each answer is the same every "
        "time. `make test` puts each mutant to the check that is there for it (**bold** below); "
        "`make test-slow` measures the whole matrix again.",
        "",
        "What this does not show: that a mutant nobody thought of would be killed.",
        "",
        f"Missed by the lower bound A1 and caught by A0: {', '.join(beyond)}.",
        "",
        f"Missed by everything that looks at a run from outside (A0, A1, A3, A6), and caught by replay, by "
        f"the ledger's checks or by a comparison with what the package should have drawn: "
        f"{', '.join(unseen)}.",
        "",
        "## Killed",
        "",
        "| mutant | what is broken | where | killed by | what the check in bold says |",
        "|---|---|---|---|---|",
    ]
    for name, by in killed.items():
        mutant, found = MUTANTS[name], measured[name]
        first = mutant.named if mutant.named in by else by[0]
        names = ", ".join([f"**{first}**", *(check for check in by if check != first)])
        stopped = len(found) - len(by)
        more = f" ({stopped} more checks end in a refusal)" if stopped > 1 else ""
        more = " (one more check ends in a refusal)" if stopped == 1 else more
        lines.append(f"| {name} | {mutant.broken} | `{mutant.place}` | {names}{more} | {found[first]} |")
    lines += [
        "",
        "## Survivors",
        "",
        "| mutant | what is broken | where | why no check here sees it |",
        "|---|---|---|---|",
    ]
    for name in survivors:
        mutant = MUTANTS[name]
        lines.append(f"| {name} | {mutant.broken} | `{mutant.place}` | {mutant.survives} |")
    lines += [
        "",
        "## The checks",
        "",
        "| check | what it looks at | kills | kills alone |",
        "|---|---|---|---|",
    ]
    for check in CHECKS.values():
        kills = [name for name, by in killed.items() if check.name in by]
        alone = ", ".join(name for name in kills if len(killed[name]) == 1) or "–"
        lines.append(f"| {check.name} | {check.looks_at} | {len(kills)} | {alone} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure unless told not to, and write."""
    if "--table" not in sys.argv[1:]:
        measured = measure()
        MEASURED.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(read()), encoding="utf-8")


if __name__ == "__main__":
    main()
