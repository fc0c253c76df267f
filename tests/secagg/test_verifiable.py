"""A server that shows another total than the survivors' sum is caught by every client."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pytest

from secure_fed_diffusion.errors import ConfigError, FrameError, PhaseError, VerificationError
from secure_fed_diffusion.secagg import codec, encoding, tag
from secure_fed_diffusion.secagg.phases import DONE, FAILED, Kind

from .forging import payload_of, relabelled, result_frame, result_of, rewrapped, round_id
from .rounds import CASES, Round, make_params, make_session, signing_key

BITS = 40
RING = 2**BITS


class Finished(Round):
    """A round whose total waits at every client; `tag_key` is what the server must not know."""

    tag_key: tag.TagKey
    inbox_of_the_first: dict[int, bytes]

    @classmethod
    def at(cls, number: int = 0) -> Finished:
        """Two rounds are paid for; stop at the end of round `number`."""
        params = make_params(modulus_bits=BITS, n_rounds=2, **CASES["verifiable"])
        a_round = cls(make_session(params))
        a_round._finish_with_key(dropouts={4: "masked_input"})
        a_round.inbox_of_the_first = a_round.inbox
        if number:
            a_round.begin(1)._finish_with_key(dropouts={})
        return a_round

    def _finish_with_key(self, dropouts: dict[int, str]) -> None:
        self.run_to("unmask", dropouts=dropouts)
        key = self.clients[0]._in_round().tag_key
        assert key is not None
        self.tag_key = key
        self.finish()


def check_vector(key: tag.TagKey, dimension: int) -> list[int]:
    """The secret r, from tags of unit vectors."""
    pad = key.tag(0, np.zeros(dimension, dtype=np.int64))
    return [(key.tag(0, row) - pad) % tag.PRIME for row in np.eye(dimension, dtype=np.int64)]


def small_kernel_vector(r: list[int]) -> np.ndarray:
    """d != 0 with <r, d> = 0 modulo the prime and entries below 2^32, by the extended Euclid."""
    k = -r[1] * pow(r[0], -1, tag.PRIME) % tag.PRIME
    a, b, u, v = tag.PRIME, k, 0, 1
    while b * b > tag.PRIME:
        a, b, u, v = b, a % b, v, u - a // b * v
    found = np.zeros(len(r), dtype=np.int64)
    found[:2] = b, v
    assert (r[0] * b + r[1] * v) % tag.PRIME == 0
    assert 0 < np.abs(found).max() < 2**32
    return found


def inner(r: list[int], vector: np.ndarray) -> int:
    return sum(a * int(b) for a, b in zip(r, vector, strict=True)) % tag.PRIME


@pytest.mark.parametrize("number", [0, 1])
def test_the_true_total_passes_at_every_client(number: int) -> None:
    a_round = Finished.at(number)
    assert a_round.is_exact()
    assert len(a_round.verified()) == (5 if number else 4)
    assert {a_round.clients[v].phase for v in a_round.inbox} == {DONE}


def test_the_total_stays_true_whoever_drops() -> None:
    for phase, n_left in (("share_keys", 4), ("masked_input", 4), ("consistency", 4), ("unmask", 4)):
        a_round = Round.of("verifiable").finish(dropouts={3: phase})
        assert all(np.array_equal(total, a_round.server.total) for total in a_round.verified().values())
        assert len(a_round.inbox) == n_left


Total = tuple[np.ndarray, int]


def one_off(a_round: Finished, total: np.ndarray, t: int) -> Total:
    total[7] += 1
    return total, t


def high_bit_off(a_round: Finished, total: np.ndarray, t: int) -> Total:
    total[0] ^= total.dtype.type(1 << (BITS - 1))
    return total, t


def scaled_with_its_tag(a_round: Finished, total: np.ndarray, t: int) -> Total:
    return total * 2 % RING, 2 * t % tag.PRIME


def negated_with_its_tag(a_round: Finished, total: np.ndarray, t: int) -> Total:
    return (0 - total) % RING, -t % tag.PRIME


def nothing(a_round: Finished, total: np.ndarray, t: int) -> Total:
    return np.zeros_like(total), 0


def nothing_with_the_true_tag(a_round: Finished, total: np.ndarray, t: int) -> Total:
    return np.zeros_like(total), t


def tag_off_by_one(a_round: Finished, total: np.ndarray, t: int) -> Total:
    return total, (t + 1) % tag.PRIME


def random_tag(a_round: Finished, total: np.ndarray, t: int) -> Total:
    return total, int.from_bytes(sha256(b"guess").digest()[:7], "little")


def one_input_left_out(a_round: Finished, total: np.ndarray, t: int) -> Total:
    """A colluder tells its vector: the server takes it out and leaves the tag."""
    return (total - a_round.vectors[3]) % RING, t


def one_input_left_out_with_its_tag(a_round: Finished, total: np.ndarray, t: int) -> Total:
    """And its tag too, pad and all; but the check still counts the pad of everyone announced."""
    values = encoding.centred(a_round.vectors[3], BITS)
    return (total - a_round.vectors[3]) % RING, (t - a_round.tag_key.tag(3, values)) % tag.PRIME


def one_input_twice_with_its_tag(a_round: Finished, total: np.ndarray, t: int) -> Total:
    values = encoding.centred(a_round.vectors[3], BITS)
    return (total + a_round.vectors[3]) % RING, (t + a_round.tag_key.tag(3, values)) % tag.PRIME


def total_of_other_survivors(a_round: Finished, total: np.ndarray, t: int) -> Total:
    """The right sum and tag of one survivor fewer, as if another list had been announced."""
    values = encoding.centred((total - a_round.vectors[3]) % RING, BITS)
    pads = sum(a_round.tag_key._pad(v) for v in a_round.server.survivors if v != 3)
    return (total - a_round.vectors[3]) % RING, (a_round.tag_key._inner_product(values) + pads) % tag.PRIME


def permuted(a_round: Finished, total: np.ndarray, t: int) -> Total:
    return total[::-1].copy(), t


def of_zero_sum(a_round: Finished, total: np.ndarray, t: int) -> Total:
    """In the kernel of the all-ones vector, of which a lazy check would consist."""
    difference = np.array([1, -1] * 8, dtype=np.int64).astype(np.uint64)
    return (total + difference) % np.uint64(RING), t


FALSE_TOTALS: list[Callable[[Finished, np.ndarray, int], Total]] = [
    one_off,
    high_bit_off,
    scaled_with_its_tag,
    negated_with_its_tag,
    nothing,
    nothing_with_the_true_tag,
    tag_off_by_one,
    random_tag,
    one_input_left_out,
    one_input_left_out_with_its_tag,
    one_input_twice_with_its_tag,
    total_of_other_survivors,
    permuted,
    of_zero_sum,
]


@pytest.mark.parametrize("falsify", FALSE_TOTALS, ids=lambda falsify: falsify.__name__)
def test_a_false_total_is_caught_by_every_client(
    falsify: Callable[[Finished, np.ndarray, int], Total],
) -> None:
    a_round = Finished.at()
    shown = result_of(a_round, 0)
    total, t = falsify(a_round, shown.vector.copy(), shown.tag)
    assert not (np.array_equal(total, shown.vector) and t == shown.tag)
    for v in a_round.inbox:
        with pytest.raises(VerificationError, match="not the sum of the announced survivors' inputs"):
            a_round.clients[v].verify(result_frame(a_round, v, total, t))
        assert a_round.clients[v].phase == FAILED
        with pytest.raises(PhaseError):
            a_round.clients[v].begin(1, model_digest=bytes(32))


def test_the_total_of_another_round_is_caught() -> None:
    a_round = Finished.at(1)
    for v, frame in a_round.inbox_of_the_first.items():
        with pytest.raises(VerificationError):
            a_round.clients[v].verify(relabelled(frame, round_id(a_round)))
    with pytest.raises(FrameError, match="another session"):
        a_round.clients[4].verify(
            a_round.inbox_of_the_first[0][:6] + a_round.inbox[4][6:10] + a_round.inbox_of_the_first[0][10:]
        )


def test_a_kernel_vector_of_an_old_round_forges_nothing_in_the_next() -> None:
    """Whoever knows r forges: the control is the round whose r leaked.  The next round's r is another."""
    a_round = Finished.at()
    r = check_vector(a_round.tag_key, 16)
    difference = small_kernel_vector(r)
    shown = result_of(a_round, 0)
    forged = (shown.vector + difference.astype(np.uint64)) % np.uint64(RING)
    assert not np.array_equal(forged, shown.vector)
    a_round.clients[0].verify(result_frame(a_round, 0, forged, shown.tag))  # the vector was known: it passes
    later = Finished.at(1)
    assert check_vector(later.tag_key, 16) != r
    shown = result_of(later, 0)
    forged = (shown.vector + difference.astype(np.uint64)) % np.uint64(RING)
    with pytest.raises(VerificationError):
        later.clients[0].verify(result_frame(later, 0, forged, shown.tag))


def test_a_client_checks_one_total_a_round_and_no_more() -> None:
    """A second try would be a second guess at the tag."""
    a_round = Finished.at()
    frame = a_round.inbox[0]
    a_round.clients[0].verify(frame)
    with pytest.raises(PhaseError):
        a_round.clients[0].verify(frame)


@pytest.mark.parametrize("excess", [1, -1])
def test_a_vector_beyond_the_headroom_is_refused_at_its_client(excess: int) -> None:
    a_round = Round.of("verifiable").run_to("masked_input")
    bound = a_round.session.params.max_centred
    a_round.vectors[0] = np.zeros(16, dtype=np.uint64)
    a_round.vectors[0][3] = (excess * (bound + 1)) % 2**32
    a_round.vectors[1] = np.full(16, (excess * bound) % 2**32, dtype=np.uint64)
    with pytest.raises(ConfigError, match=f"at most {bound} in a verifiable sum"):
        a_round.answer(0)
    assert a_round.clients[0].phase == "masked_input"
    a_round.close(a_round.answers(without=[0]))
    a_round.finish()
    assert all(np.array_equal(total, a_round.server.total) for total in a_round.verified().values())


def test_a_verified_total_is_no_view_of_the_transport_s_buffer() -> None:
    a_round = Round.of("verifiable").finish()
    frame = bytearray(a_round.inbox[0])
    verified = a_round.clients[0].verify(frame)
    frame[-16:] = bytes(16)
    assert np.array_equal(verified, a_round.server.total)


def test_the_largest_sum_that_the_headroom_allows_does_not_wrap() -> None:
    for sign in (1, -1):
        a_round = Round.of("verifiable").run_to("masked_input")
        bound = a_round.session.params.max_centred
        a_round.vectors = dict.fromkeys(range(5), np.full(16, (sign * bound) % 2**32, dtype=np.uint64))
        a_round.finish()
        assert encoding.centred(a_round.server.total, 32).tolist() == [5 * sign * bound] * 16
        a_round.verified()


def test_one_client_with_a_false_tag_fails_every_check_and_the_error_does_not_accuse_the_server_alone() -> (
    None
):
    """A written limit: nobody can tell whose tag it was."""
    a_round = Round.of("verifiable").run_to("masked_input")
    frames = a_round.answers()
    payload = bytearray(payload_of(a_round, frames[2]))
    payload[-8] ^= 1
    message = codec.signed_bytes(
        Kind.MASKED_INPUT,
        session_id=round_id(a_round),
        client_id=2,
        payload=bytes(payload),
        masked_with={0, 1, 3, 4},
    )
    frames[2] = rewrapped(frames[2], bytes(payload) + signing_key(2).sign(message))
    a_round.close(frames)
    a_round.finish()
    assert a_round.is_exact()
    for v, frame in a_round.inbox.items():
        with pytest.raises(
            VerificationError, match="the server, or a client that sent a false tag"
        ) as caught:
            a_round.clients[v].verify(frame)
        assert caught.value.culprits == ()


def test_all_clients_have_one_group_key_and_no_frame_holds_it() -> None:
    a_round = Round.of("verifiable", n_rounds=2).run_to("consistency")
    secrets = {client._setup.keyring.group_key for client in a_round.clients.values()}
    assert len(secrets) == 1
    assert secrets.pop() not in b"".join(a_round.inbox.values())
