"""Broken versions of the package: each replaces exactly one function of it by one that lies.

A mutant is a change that a hurried developer could make and that leaves every run going: nothing crashes,
the model trains, the report looks the same.  `named` is the check that is there to notice it; what every
check says of every mutant is measured, in `docs/mutants.md`.  The mutants lie in `broken`, by topic; this
is the table of all of them, in the order of the page.
"""

from __future__ import annotations

from tests.mutants.broken.accounting import ACCOUNTING
from tests.mutants.broken.clip import CLIP
from tests.mutants.broken.ledger import LEDGER
from tests.mutants.broken.mutant import Mutant
from tests.mutants.broken.noise import NOISE
from tests.mutants.broken.rows import ROWS
from tests.mutants.broken.sampling import SAMPLING
from tests.mutants.broken.together import TOGETHER
from tests.mutants.broken.wire import WIRE

MUTANTS: dict[str, Mutant] = {
    **CLIP,
    **ROWS,
    **TOGETHER,
    **NOISE,
    **SAMPLING,
    **ACCOUNTING,
    **LEDGER,
    **WIRE,
}
