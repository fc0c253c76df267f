"""Differential privacy of one federated run: what happened, what it cost, and the record of both.

`mechanism` says what a step releases, `accounting` what that costs in one view, `calibration` how much
noise a promise needs, `survivors` what the noise that really was there costs, `grid` and `noise` make
sensitivity and noise integer facts, `ledger` charges each client before anything leaves.  No torch here;
dp_accounting is (extra `train`).

Not protected against: a pipeline that does not do what its `Mechanism` says.  See docs/privacy.md.

>>> View.parse("sum_c1").adversary
'The server, which decodes every sum, together with 1 client that tells it its noise shares.'
"""

from secure_fed_diffusion.dp.accounting import (
    CLIENT_SAMPLING,
    Accountant,
    delta,
    delta_curve,
    discretisation_loss,
    epsilon,
)
from secure_fed_diffusion.dp.calibration import calibrate
from secure_fed_diffusion.dp.filters import RenyiFilter
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.dp.ledger import Ledger, LedgerReport, verify
from secure_fed_diffusion.dp.mechanism import Mechanism, View
from secure_fed_diffusion.dp.noise import discrete_gaussian, log_sampling_distance, poisson_sample
from secure_fed_diffusion.dp.realised import (
    DROPOUT_ASSUMPTION,
    SPENT_ASSUMPTION,
    RealisedEpsilon,
    realised_epsilon,
)
from secure_fed_diffusion.dp.terms import Terms

__all__ = [
    "CLIENT_SAMPLING",
    "DROPOUT_ASSUMPTION",
    "SPENT_ASSUMPTION",
    "Accountant",
    "IntegerGrid",
    "Ledger",
    "LedgerReport",
    "Mechanism",
    "RealisedEpsilon",
    "RenyiFilter",
    "Terms",
    "View",
    "calibrate",
    "delta",
    "delta_curve",
    "discrete_gaussian",
    "discretisation_loss",
    "epsilon",
    "log_sampling_distance",
    "poisson_sample",
    "realised_epsilon",
    "verify",
]
