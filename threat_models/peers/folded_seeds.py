"""Search the 32-bit seeds that SecAgg+ of flwr 1.41 folds its shared keys to.

`pseudo_rand_gen` XORs the words of a key into one and seeds numpy's `RandomState` (MT19937) with it.  A key
that two clients share is 32 bytes in base64, 44 characters of ASCII, so the top bit of each byte of the seed
is zero: 2^28 seeds are all that a pairwise mask can have.  The first draw depends on words 0, 1 and 397 of
the state, so a candidate costs 397 multiplications.  The first masked value is the client's weight, which
travels in clear beside the vector: the right seed is known by it.

The table runs 2^18 of the 2^28 candidates, the slice with the right one in it; the whole is 1,024 of them.
A whole search took 93 s on one core when the reference was measured (secure_aggregation, section 2);
tests/threat_models runs it, among the slow tests.

Source: flwr 1.41.0, common/secure_aggregation/secaggplus_utils.py; Matsumoto and Nishimura 1998.

>>> import numpy as np
>>> int(first_draws(np.array([7], dtype=np.uint32))[0]) == np.random.RandomState(7).randint(0, 2**32 - 1)
True
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from threat_models.adversaries.curious_server import PairMaskedVector

Words = npt.NDArray[np.uint32]
CANDIDATES, SLICE = 1 << 28, 1 << 18
_AT_ONCE = 1 << 14  # states that stay in the second-level cache


def first_draws(seeds: Words) -> Words:
    """Return the first 32-bit draw of MT19937 for each seed."""
    state = seeds.astype(np.uint32)
    first, second = state.copy(), state
    shifted = np.empty_like(state)
    for i in range(1, 398):
        np.right_shift(state, 30, out=shifted)
        state ^= shifted
        state *= np.uint32(1812433253)
        state += np.uint32(i)
        if i == 1:
            second = state.copy()
    twisted = (first & np.uint32(0x80000000)) | (second & np.uint32(0x7FFFFFFF))
    odd = np.where(twisted & 1, np.uint32(0x9908B0DF), np.uint32(0))
    word: Words = state ^ (twisted >> np.uint32(1)) ^ odd
    word ^= word >> np.uint32(11)
    word ^= (word << np.uint32(7)) & np.uint32(0x9D2C5680)
    word ^= (word << np.uint32(15)) & np.uint32(0xEFC60000)
    return word ^ (word >> np.uint32(18))


def seed_of(candidates: Words) -> Words:
    """Return the seeds of these candidates, 28 bits each: seven to a byte."""
    spread = np.zeros_like(candidates)
    for byte in range(4):
        spread |= (candidates >> np.uint32(7 * byte) & np.uint32(0x7F)) << np.uint32(8 * byte)
    return spread


def candidate_of(seed: int) -> int:
    """Return where a seed stands in the search."""
    return sum((seed >> 8 * byte & 0x7F) << 7 * byte for byte in range(4))


def seeds_that_draw(value: int, *, start: int = 0, n_candidates: int = CANDIDATES) -> list[int]:
    """Return the seeds among these candidates whose first draw is `value`."""
    found: list[int] = []
    for begin in range(start, start + n_candidates, _AT_ONCE):
        seeds = seed_of(np.arange(begin, min(begin + _AT_ONCE, start + n_candidates), dtype=np.uint32))
        found += seeds[first_draws(seeds) == np.uint32(value)].tolist()
    return found


def unmask(view: PairMaskedVector) -> Words:
    """Find the seed of the mask and take the mask off; nothing where no seed of the slice fits."""
    if view.search_from is None:
        return np.zeros(0, dtype=np.uint32)
    sign = 1 if view.own_id > view.peer_id else -1  # the higher id adds the mask, the lower one subtracts it
    drawn = (sign * (int(view.vector[0]) - view.first_value)) % 2**32
    for seed in seeds_that_draw(drawn, start=view.search_from, n_candidates=SLICE):
        generator = np.random.RandomState(seed)
        generator.randint(0, 2**32 - 1, (1,), dtype=np.int64)
        mask = generator.randint(0, 2**32 - 1, len(view.vector) - 1, dtype=np.int64)
        bare: Words = ((view.vector[1:].astype(np.int64) - sign * mask) % 2**32).astype(np.uint32)
        return bare
    return np.zeros(0, dtype=np.uint32)
