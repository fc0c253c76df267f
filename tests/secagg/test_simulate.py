"""One round in one process, of a session and of keys that the caller brings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import ConfigError

from .rounds import CASES, make_params, make_roster, make_session, make_vectors, plain_sum, signing_key

SIGNED = ("active", "active_sparse", "verifiable")


@pytest.mark.parametrize("case", CASES)
def test_a_session_of_every_profile_is_played_with_the_keys_that_its_roster_lists(case: str) -> None:
    params = make_params(**CASES[case])
    session = make_session(params)
    vectors = make_vectors(session)
    result = secagg.simulate(
        params,
        vectors,
        session=session,
        signers={v: signing_key(v) for v in session.cohort} if params.signed else None,
        dropouts={1: "masked_input"},
    )
    assert 1 not in result.survivors
    assert np.array_equal(result.total, plain_sum(session, vectors, result.survivors))


@pytest.mark.parametrize("given", [True, False])
def test_without_a_session_the_roster_is_made_of_the_keys_given_or_of_fresh_ones(given: bool) -> None:
    params = make_params(profile="active")
    vectors = make_vectors(make_session(params))
    signers = {v: signing_key(v) for v in vectors}
    result = secagg.simulate(params, vectors, signers=signers if given else None)
    advert = next(entry.frame for entry in result.transcript if entry.sender == 0)
    session = secagg.Session(
        run_id=b"simulate",
        round=0,
        attempt=0,
        cohort=tuple(vectors),
        params=params,
        model_digest=bytes(32),
        roster=make_roster(vectors),
    )
    assert (session.id in advert) is given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signers": None}, r"signers: no signing key for the clients \[0, 1, 2, 3, 4\]"),
        (
            {"signers": {v: signing_key(v) for v in range(4)}},
            r"signers: no signing key for the clients \[4\]",
        ),
        (
            {"signers": {v: signing_key(v + 1) for v in range(5)}},
            "the key that the roster lists for client 0",
        ),
        ({"session": None, "signers": {0: signing_key(0)}}, r"signers: no signing key .* \[1, 2, 3, 4\]"),
        ({"params": make_params(), "session": None}, "signers: profile semi_honest signs nothing"),
        ({"params": make_params()}, "session: expected one of `params`"),
        ({"vectors": {0: np.zeros(16, dtype=np.uint32)}}, "session: .* the clients of `vectors`"),
    ],
)
def test_what_does_not_fit_the_session_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    params = make_params(profile="active")
    session = make_session(params)
    settings: dict[str, Any] = {
        "params": params,
        "vectors": make_vectors(session),
        "session": session,
        "signers": {v: signing_key(v) for v in session.cohort},
        **changes,
    }
    with pytest.raises(ConfigError, match=message):
        secagg.simulate(settings.pop("params"), settings.pop("vectors"), **settings)
