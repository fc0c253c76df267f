"""The rounds that these tests stop and tamper with: one code with the claims of `threat_models`."""

from threat_models.staging.secagg_round import (
    CASES,
    PHASES,
    STEPS,
    Round,
    fixed_entropy,
    make_params,
    make_roster,
    make_session,
    make_vectors,
    model_of,
    plain_sum,
    signing_key,
)

__all__ = [
    "CASES",
    "PHASES",
    "STEPS",
    "Round",
    "fixed_entropy",
    "make_params",
    "make_roster",
    "make_session",
    "make_vectors",
    "model_of",
    "plain_sum",
    "signing_key",
]
