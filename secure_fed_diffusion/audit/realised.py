"""ε with the noise that was really there: the ledger's charges, priced at the survivors of each sum.

The ledger's own ε has the noise of the plan's fewest survivors.  Where more survived there was more noise;
the ε of that noise holds only if dropouts do not depend on outputs, records or coins, because an
accountant of fixed parameters may not look at outputs.  It is shown beside the ledger's and is what a
lower bound, which sees the noise that is there, is compared with.

A charge whose sum the auditor has no notes of (an attempt that failed) is priced at the plan's fewest.

Source: docs/privacy.md; Feldman and Zrnic 2021 (on filters) for why it is no guarantee.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from secure_fed_diffusion.audit.journal import RoundNotes
from secure_fed_diffusion.dp import chain
from secure_fed_diffusion.dp.account import read_charge, read_terms
from secure_fed_diffusion.dp.accounting import epsilon
from secure_fed_diffusion.dp.mechanism import Mechanism, View


def realised_epsilons(
    ledger: Path, rounds: Sequence[RoundNotes], *, view: View, wanted: Sequence[int]
) -> dict[int, float]:
    """Return ε by PLD after each of the rounds `wanted`, of the client that spent most by then."""
    entries, _ = chain.decode(ledger.read_bytes())
    terms = read_terms(entries)
    survivors = {(notes.number, notes.attempt): len(notes.survivors) for notes in rounds}
    charges = [read_charge(entry)[0] for entry in entries[1:]]
    found: dict[int, float] = {}
    for last in wanted:
        spent: dict[int, Counter[Mechanism]] = {}
        for charge in charges:
            if charge.round > last:
                continue
            mechanism = terms.mechanisms[charge.mechanism]
            there = survivors.get((charge.round, charge.attempt), mechanism.min_survivors)
            counts = spent.setdefault(charge.client_id, Counter())
            counts[replace(mechanism, min_survivors=there)] += charge.steps
        found[last] = max((_price(counts, terms.delta, view) for counts in _distinct(spent)), default=0.0)
    return found


def _distinct(spent: Mapping[int, Counter[Mechanism]]) -> list[Counter[Mechanism]]:
    """Return each set of steps once: clients that took the same steps spent the same."""
    found: list[Counter[Mechanism]] = []
    for counts in spent.values():
        if counts not in found:
            found.append(counts)
    return found


def _price(counts: Mapping[Mechanism, int], delta: float, view: View) -> float:
    return epsilon(dict(counts), delta=delta, view=view)
