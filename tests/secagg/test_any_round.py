"""Any clients, threshold, graph and dropouts: the exact sum over the survivors, or a typed error."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import ConfigError, PolicyError, TooFewClientsError

from .rounds import PHASES, Round, fixed_entropy, make_params, make_session, make_vectors, plain_sum

RELAXED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@st.composite
def rounds(draw: st.DrawFn) -> tuple[secagg.Session, dict[int, str]]:
    n = draw(st.integers(3, 20))
    modulus_bits = draw(st.integers(8, 64))
    if n > 4 and draw(st.booleans()):
        k = 2 * draw(st.integers(1, (n - 1) // 2))
        threshold = draw(st.integers(max(2, k // 2), k + 1))
    else:
        k, threshold = None, draw(st.integers(n // 2 + 1, n))
    params = secagg.SecAggParams(
        n_clients=n,
        threshold=threshold,
        dimension=draw(st.integers(1, 16)),
        modulus_bits=modulus_bits,
        n_neighbours=k,
    )
    ids = draw(st.lists(st.integers(0, 2**32 - 1), min_size=n, max_size=n, unique=True))
    gone = draw(st.lists(st.sampled_from(ids), unique=True, max_size=draw(st.integers(0, n))))
    dropouts = {v: draw(st.sampled_from(PHASES)) for v in gone}
    return make_session(params, ids, round=draw(st.integers(0, 5))), dropouts


OUTCOMES: Counter[str] = Counter()


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=RELAXED)
@given(rounds())
def check_one_round(case: tuple[secagg.Session, dict[int, str]]) -> None:
    session, dropouts = case
    vectors = make_vectors(session)
    failure, result = None, None
    try:
        result = secagg.simulate(
            session.params, vectors, dropouts=dropouts, entropy=fixed_entropy(), session=session
        )
    except TooFewClientsError as error:
        failure = error
    if result is None:
        OUTCOMES["too few"] += 1
        assert failure is not None
        assert failure.culprits
        assert set(failure.culprits) <= set(dropouts)
        return
    OUTCOMES["sum"] += 1
    assert np.array_equal(result.total, plain_sum(session, vectors, result.survivors))
    gone_early = {v for v, phase in dropouts.items() if phase != "unmask"}
    assert not gone_early & set(result.survivors)
    if session.params.n_neighbours is None:  # nobody else is left out
        assert set(result.survivors) == set(session.cohort) - gone_early
        assert len(session.cohort) - len(dropouts) >= session.params.threshold


def test_any_round_gives_the_exact_sum_or_a_typed_error() -> None:
    OUTCOMES.clear()
    check_one_round()
    assert OUTCOMES["sum"] >= 40, OUTCOMES
    assert OUTCOMES["too few"] >= 40, OUTCOMES


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("n_neighbours", [None, 8])
def test_dropouts_down_to_the_threshold_are_survived(phase: str, n_neighbours: int | None) -> None:
    params = make_params(9, 5, n_neighbours=n_neighbours)
    session = make_session(params)
    vectors = make_vectors(session)
    gone = dict.fromkeys((0, 3, 4, 8), phase)
    result = secagg.simulate(params, vectors, dropouts=gone)
    expected = session.cohort if phase == "unmask" else (1, 2, 5, 6, 7)
    assert result.survivors == expected
    assert np.array_equal(result.total, plain_sum(session, vectors, expected))


@pytest.mark.parametrize("phase", PHASES)
def test_one_dropout_beyond_the_threshold_is_a_typed_error_that_names_the_missing(phase: str) -> None:
    params = make_params(9, 5)
    gone = dict.fromkeys((0, 3, 4, 7, 8), phase)
    with pytest.raises(
        TooFewClientsError, match=f"{phase}.*threshold=5.*4 left; missing: 0, 3, 4, 7, 8"
    ) as caught:
        secagg.simulate(params, make_vectors(make_session(params)), dropouts=gone)
    assert caught.value.culprits == (0, 3, 4, 7, 8)


def test_a_server_below_the_threshold_stays_failed() -> None:
    server = Round().server
    with pytest.raises(TooFewClientsError):
        server.advance()
    assert server.phase == "failed"


def test_dropouts_in_every_phase_at_once_are_survived() -> None:
    params = make_params(12, 7)
    session = make_session(params)
    vectors = make_vectors(session)
    gone = {0: "advertise", 1: "share_keys", 2: "masked_input", 3: "unmask", 4: "unmask"}
    result = secagg.simulate(params, vectors, dropouts=gone)
    assert result.survivors == (3, 4, 5, 6, 7, 8, 9, 10, 11)
    assert np.array_equal(result.total, plain_sum(session, vectors, result.survivors))


def test_a_large_sparse_round_survives_dropouts() -> None:
    params = make_params(60, 8, n_neighbours=14)
    session = make_session(params)
    vectors = make_vectors(session)
    gone = {5: "advertise", 17: "share_keys", 30: "masked_input", 44: "unmask"}
    result = secagg.simulate(params, vectors, dropouts=gone, session=session, entropy=fixed_entropy())
    assert len(result.survivors) == 57
    assert np.array_equal(result.total, plain_sum(session, vectors, result.survivors))


def test_survivors_whose_graph_fell_apart_are_not_summed() -> None:
    session = make_session(make_params(12, 2, n_neighbours=2))
    ring = session.graph._ring
    gone = dict.fromkeys((ring[0], ring[6]), "masked_input")  # two paths of five are left
    with pytest.raises(TooFewClientsError, match="fell apart"):
        secagg.simulate(session.params, make_vectors(session), dropouts=gone, session=session)


def test_a_client_whose_holders_are_too_few_is_left_out_and_the_others_go_on() -> None:
    session = make_session(make_params(20, 3, n_neighbours=4))
    ring = session.graph._ring
    gone = {ring[1], ring[2], ring[-1]}  # of the four neighbours of ring[0] one is left
    for phase in ("advertise", "share_keys"):
        vectors = make_vectors(session)
        dropouts = dict.fromkeys(gone, phase)
        result = secagg.simulate(session.params, vectors, dropouts=dropouts, session=session)
        assert set(result.survivors) == set(session.cohort) - gone - {ring[0]}
        assert np.array_equal(result.total, plain_sum(session, vectors, result.survivors))


def test_the_transcript_holds_every_frame_in_order() -> None:
    params = make_params(5, 4)
    result = secagg.simulate(params, make_vectors(make_session(params)), dropouts={3: "masked_input"})
    counts = Counter((entry.phase, entry.sender == "server") for entry in result.transcript)
    assert counts == {
        ("advertise", False): 5,
        ("share_keys", True): 5,
        ("share_keys", False): 5,
        ("masked_input", True): 5,
        ("masked_input", False): 4,
        ("unmask", True): 4,
        ("unmask", False): 4,
    }
    assert all("server" in (entry.sender, entry.receiver) for entry in result.transcript)
    masked = [e.frame for e in result.transcript if e.phase == "masked_input" and e.receiver == "server"]
    assert {len(frame) for frame in masked} == {50 + 16 * 4}


def test_an_unknown_or_skipped_phase_of_dropout_is_refused() -> None:
    vectors = make_vectors(make_session())
    for phase in ("consistency", "lunch"):
        with pytest.raises(ConfigError, match="semi_honest"):
            secagg.simulate(make_params(), vectors, dropouts={1: phase})
    with pytest.raises(ConfigError, match="99"):
        secagg.simulate(make_params(), vectors, dropouts={99: "unmask"})


def test_a_policy_that_refuses_the_parameters_stops_the_simulation() -> None:
    with pytest.raises(PolicyError):
        secagg.simulate(make_params(), make_vectors(make_session()), policy=secagg.Policy(min_cohort=6))
