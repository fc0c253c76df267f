"""What binds the rounds of the active profile to one list of adverts; and the graph that clients pick.

On the complete graph every client is given all adverts, and the root of a Merkle tree over them enters the
ids of the rounds: a signature over a survivor list counts if it is one by the very machine whose keys the
others mask with.  Another machine of the same client (a process begun anew, or under another number at the
transport) has other keys, so what it signs counts nowhere else.

On a sparse graph the server sends every client the Merkle root of all adverts, one leaf for each of the
cohort, the path from that client's own, without which it goes no further, and who advertised. Only then
does a client draw its k neighbours from the whole cohort, by its own randomness (those that are absent are
dropouts; a list of the present ones could hold the server's own clients alone), and it accepts an advert
only with its path to that root. So the server cannot fit adverts, dropouts or session ids to a graph that
it likes, and a client checks the signatures of those that it picked and of those that picked it, about 2 k.
The root enters the ids of the rounds here too: clients that were shown different roots share no mask, and a
machine whose own advert is not under it is in no round.

Not protected against: a server that drops clients once it sees the choices: how small a piece of the
graph it can cut off is not bounded here.  One that makes a client repeat the set-up sees another
choice each time; count the set-ups, and the probabilities of `population` with them.

Source: Bell et al., CCS 2020, section 5 (malicious adversaries); RFC 6962, section 2.1, for the labels
of leaves and nodes.

>>> tree = MerkleTree([b"a", b"b", b"c"])
>>> leads_to(tree.root, b"c", index=2, n_leaves=3, path=tree.path(2))
True
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from hashlib import sha256

from ..entropy import Entropy
from ..errors import TooFewClientsError

NODE_BYTES = 32
_LEAF, _NODE = b"\x00", b"\x01"
_ABSENT = sha256(b"secure_fed_diffusion secagg v3 no leaf").digest()


class MerkleTree:
    """A binary tree over `leaves`, filled up to a power of two."""

    __slots__ = ("_levels",)

    def __init__(self, leaves: Sequence[bytes]) -> None:
        level = [sha256(_LEAF + leaf).digest() for leaf in leaves]
        level += [_ABSENT] * ((1 << depth(len(leaves))) - len(leaves))
        self._levels = [level]
        while len(level) > 1:
            level = [_node(level[i], level[i + 1]) for i in range(0, len(level), 2)]
            self._levels.append(level)

    @property
    def root(self) -> bytes:
        """32 bytes that fix every leaf and its place."""
        return self._levels[-1][0]

    def path(self, index: int) -> bytes:
        """Return the siblings from leaf `index` to the root, 32 bytes each."""
        return b"".join(level[(index >> height) ^ 1] for height, level in enumerate(self._levels[:-1]))


def depth(n_leaves: int) -> int:
    """Return how many siblings a path has."""
    return max(0, n_leaves - 1).bit_length()


def leads_to(root: bytes, leaf: bytes, *, index: int, n_leaves: int, path: bytes) -> bool:
    """Tell whether `leaf` stands at `index` of the tree with this root."""
    if len(path) != NODE_BYTES * depth(n_leaves):
        return False
    node = sha256(_LEAF + leaf).digest()
    for height in range(depth(n_leaves)):
        sibling = path[NODE_BYTES * height : NODE_BYTES * (height + 1)]
        node = _node(sibling, node) if index >> height & 1 else _node(node, sibling)
    return node == root


def leaf(client_id: int, advert: bytes) -> bytes:
    """Return the leaf of a client that advertised; an absent one's is of an empty advert."""
    return struct.pack("<I", client_id) + advert


def tree_of(cohort: Sequence[int], adverts: Mapping[int, bytes]) -> MerkleTree:
    """Return the tree over the adverts of a cohort, whose root binds its rounds."""
    return MerkleTree([leaf(v, adverts.get(v, b"")) for v in cohort])


def draw(candidates: Sequence[int], n_neighbours: int, entropy: Entropy) -> tuple[int, ...]:
    """Draw `n_neighbours` of the candidates without replacement, ascending.

    Guarantees: every set is equally likely, exactly: 64-bit words that would bias are drawn again.

    Raises:
        TooFewClientsError: fewer candidates.
    """
    if len(candidates) < n_neighbours:
        raise TooFewClientsError(f"expected n_neighbours={n_neighbours} to choose, {len(candidates)} present")
    pool = list(candidates)
    for place in range(n_neighbours):  # Fisher and Yates
        other = place + _below(len(pool) - place, entropy)
        pool[place], pool[other] = pool[other], pool[place]
    return tuple(sorted(pool[:n_neighbours]))


def _below(bound: int, entropy: Entropy) -> int:
    limit = (1 << 64) // bound * bound
    while (word := int.from_bytes(entropy(8), "little")) >= limit:
        pass
    return word % bound


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(_NODE + left + right).digest()
