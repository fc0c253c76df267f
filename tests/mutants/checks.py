"""The named checks: each passes on the package as it is, and returns what it found on a broken one.

The statistical ones look at seeded streams, so their answer is one and the same each time; the levels in
them are those of the package's own auditors.  A pipeline that stops with one of the package's own errors
has been noticed too: a run that ends in a refusal releases nothing.  The checks lie in `questions`, by
topic; this is the table of all of them, in the order of the page.
"""

from __future__ import annotations

from tests.mutants.questions.canaries import CANARIES
from tests.mutants.questions.check import STOPS, Check
from tests.mutants.questions.draws import DRAWS
from tests.mutants.questions.ledger import LEDGER
from tests.mutants.questions.plan import PLAN
from tests.mutants.questions.replay import REPLAY
from tests.mutants.questions.together import TOGETHER
from tests.mutants.questions.wire import WIRE

__all__ = ["CHECKS", "STOPS"]

CHECKS: dict[str, Check] = {
    **PLAN,
    **REPLAY,
    **TOGETHER,
    **DRAWS,
    **LEDGER,
    **WIRE,
    **CANARIES,
}
