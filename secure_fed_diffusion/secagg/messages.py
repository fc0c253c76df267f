"""The messages: each owns its encoding and its exact length.

`encode` gives a payload, `decode` takes one or raises `FrameError`; header and signature are `codec`'s.
A decoder checks form (lengths, order, field elements, public keys); whether a message fits the round
is for the machine that takes it.

>>> Advert.decode(b"\\x09" + bytes(31) + b"\\x09" + bytes(31), n_rounds=1)
Traceback (most recent call last):
secure_fed_diffusion.errors.FrameError: a key appears twice in one advert
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self

import numpy as np
import numpy.typing as npt

from ..errors import FrameError
from .choice import NODE_BYTES, depth
from .codec import Buffer, Reader, write_table
from .encoding import RingVector, pack, unpack
from .keys import KEY_BYTES, check_public
from .params import SecAggParams
from .seal import decode_share, encode_share, sealed_bytes
from .shamir import SHARE_BYTES
from .signing import SIGNATURE_BYTES
from .tag import PRIME, TAG_BYTES

COMMITMENT_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert:
    """Client to server: ephemeral public keys, one for sealing and one a round for masks."""

    cipher_key: bytes
    mask_keys: tuple[bytes, ...]

    @property
    def public_keys(self) -> tuple[bytes, ...]:
        """All of them."""
        return (self.cipher_key, *self.mask_keys)

    def encode(self) -> bytes:
        """32 (1 + R) bytes."""
        return b"".join(self.public_keys)

    @classmethod
    def decode(cls, payload: Buffer, *, n_rounds: int) -> Advert:
        """Refuse keys of low order, keys that are not canonical, and one key for two uses."""
        if len(payload) != advert_bytes(n_rounds):
            raise FrameError(f"expected an advert of {advert_bytes(n_rounds)} bytes, got {len(payload)}")
        publics = [bytes(payload[i : i + KEY_BYTES]) for i in range(0, len(payload), KEY_BYTES)]
        for public in publics:
            check_public(public)
        if len(set(publics)) != len(publics):
            raise FrameError("a key appears twice in one advert")
        return cls(cipher_key=publics[0], mask_keys=tuple(publics[1:]))


def advert_bytes(n_rounds: int) -> int:
    """Return the length of an advert."""
    return KEY_BYTES * (1 + n_rounds)


def proof_bytes(params: SecAggParams) -> int:
    """Return how many bytes vouch for an advert that the server passes on: signature, path to the root."""
    path = NODE_BYTES * depth(params.n_clients) if params.client_chosen_graph else 0
    return SIGNATURE_BYTES + path if params.signed else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvertList:
    """Server to client: the adverts of its neighbours by client id, each with what vouches for it."""

    adverts: Mapping[int, Advert]
    proofs: Mapping[int, bytes] = field(default_factory=dict)

    def encode(self, params: SecAggParams) -> bytes:
        """4 bytes, and for each its id, advert and proof."""
        rows = {v: advert.encode() + self.proofs.get(v, b"") for v, advert in self.adverts.items()}
        return write_table(rows, width=advert_bytes(params.n_rounds) + proof_bytes(params))

    @classmethod
    def decode(cls, payload: Buffer, params: SecAggParams) -> AdvertList:
        """Refuse any key that appears twice."""
        reader = Reader(payload)
        width = advert_bytes(params.n_rounds)
        rows = reader.table(width=width + proof_bytes(params))
        reader.finish()
        adverts = {v: Advert.decode(row[:width], n_rounds=params.n_rounds) for v, row in rows.items()}
        public_keys = [key for advert in adverts.values() for key in advert.public_keys]
        if len(set(public_keys)) != len(public_keys):
            raise FrameError("two clients advertise the same public key")
        return cls(adverts=adverts, proofs={v: row[width:] for v, row in rows.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Some of the cohort, one bit each in ascending order of id, whose complement is implied."""

    present: npt.NDArray[np.bool_]

    @classmethod
    def among(cls, cohort: tuple[int, ...], client_ids: Set[int]) -> Self:
        """List those of the cohort that are in `client_ids`."""
        present = (client_id in client_ids for client_id in cohort)
        return cls(present=np.fromiter(present, dtype=bool, count=len(cohort)))

    def encode(self) -> bytes:
        """ceil(n / 8) bytes."""
        return np.packbits(self.present, bitorder="little").tobytes()

    @classmethod
    def decode(cls, payload: Buffer, n_clients: int) -> Self:
        """Read the bits; those beyond the cohort are zero."""
        n_bytes = (n_clients + 7) // 8
        if len(payload) != n_bytes:
            raise FrameError(f"expected {n_bytes} bytes of members, got {len(payload)}")
        bits = np.unpackbits(np.frombuffer(payload, dtype=np.uint8), bitorder="little")
        if bits[n_clients:].any():
            raise FrameError("the padding of the members is not zero")
        return cls(present=bits[:n_clients].astype(np.bool_))


class Survivors(Members):
    """Server to client: whose masked input is in the sum, one bit each of the cohort."""

    def digest(self) -> bytes:
        """SHA-256 of the encoding: what clients sign."""
        return sha256(self.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """Client to server: the digest of the survivor list that it saw; the signature is the point of it."""

    digest: bytes

    def encode(self) -> bytes:
        """32 bytes."""
        return self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """Server to client: the root of all adverts, the path of the client's own to it, and who sent one."""

    root: bytes
    path: bytes
    members: Members

    def encode(self) -> bytes:
        """32 + 32 * ceil(log2 n) + ceil(n / 8) bytes."""
        return self.root + self.path + self.members.encode()

    @classmethod
    def decode(cls, payload: Buffer, n_clients: int) -> Commitment:
        """Read the form alone."""
        reader = Reader(payload)
        root = bytes(reader.take(NODE_BYTES))
        path = bytes(reader.take(NODE_BYTES * depth(n_clients)))
        return cls(root=root, path=path, members=Members.decode(reader.rest(), n_clients))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Client to server: the neighbours that it drew."""

    neighbours: tuple[int, ...]

    def encode(self) -> bytes:
        """4 + 4 k bytes."""
        return write_ids(self.neighbours)

    @classmethod
    def decode(cls, payload: Buffer) -> Choice:
        """Read the form alone."""
        reader = Reader(payload)
        neighbours = tuple(reader.table(width=0))
        reader.finish()
        return cls(neighbours=neighbours)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Client to server: commitments to the self-mask seeds, one a round, and sealed shares by receiver."""

    commitments: tuple[bytes, ...]
    sealed: Mapping[int, bytes]

    def encode(self, params: SecAggParams) -> bytes:
        """32 R + 4 bytes, and 4 + 66 R + 16 (and 32 if verifiable) for each receiver."""
        return b"".join(self.commitments) + write_table(self.sealed, width=sealed_bytes(params))

    @classmethod
    def decode(cls, payload: Buffer, params: SecAggParams) -> Shares:
        """Read the form alone; what is sealed is for its receiver."""
        reader = Reader(payload)
        commitments = tuple(bytes(reader.take(COMMITMENT_BYTES)) for _ in range(params.n_rounds))
        sealed = reader.table(width=sealed_bytes(params))
        reader.finish()
        return cls(commitments=commitments, sealed=sealed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareDelivery:
    """Server to client: the shares sealed for it, by sender; empty once it has answered with them.

    `masks_only` are those that it shared with and that did not share with it: only where clients choose.
    """

    sealed: Mapping[int, bytes]
    masks_only: Collection[int] = ()

    def encode(self, params: SecAggParams) -> bytes:
        """4 bytes and a row for each; where clients choose, 4 bytes and 4 for each of `masks_only`."""
        table = write_table(self.sealed, width=sealed_bytes(params))
        return table + write_ids(self.masks_only) if params.client_chosen_graph else table

    @classmethod
    def decode(cls, payload: Buffer, params: SecAggParams) -> ShareDelivery:
        """Refuse a client that stands in both lists."""
        reader = Reader(payload)
        sealed = reader.table(width=sealed_bytes(params))
        masks_only = tuple(reader.table(width=0)) if params.client_chosen_graph else ()
        reader.finish()
        if not sealed.keys().isdisjoint(masks_only):
            raise FrameError("a client both shared and did not")
        return cls(sealed=sealed, masks_only=masks_only)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedInput:
    """Client to server: the vector under all its masks, b bits a value; its tag where sums are verifiable."""

    vector: RingVector
    tag: int = 0

    def encode(self, params: SecAggParams) -> Buffer:
        """ceil(dimension * modulus_bits / 8) bytes, and 8 of the tag."""
        packed = pack(self.vector, params.modulus_bits)
        if not params.verifiable:
            return packed
        return b"".join((packed, self.tag.to_bytes(TAG_BYTES, "little")))

    @classmethod
    def decode(cls, payload: memoryview, params: SecAggParams) -> Self:
        """Read a vector of the ring, and a reduced tag."""
        tag = 0
        if params.verifiable:
            payload, tag_bytes = payload[:-TAG_BYTES], bytes(payload[-TAG_BYTES:])
            tag = int.from_bytes(tag_bytes, "little")
            if len(tag_bytes) != TAG_BYTES or tag >= PRIME:
                raise FrameError("no reduced tag at the end of the vector")
        return cls(vector=unpack(payload, params.dimension, params.modulus_bits), tag=tag)


class Result(MaskedInput):
    """Server to client: the total, and its tag, for the client to check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyList:
    """Server to client: the signatures of those that signed the survivors' digest, by client id."""

    signatures: Mapping[int, bytes]

    def encode(self) -> bytes:
        """4 + 68 bytes for each."""
        return write_table(self.signatures, width=SIGNATURE_BYTES)

    @classmethod
    def decode(cls, payload: Buffer) -> ConsistencyList:
        """Read the form alone."""
        reader = Reader(payload)
        signatures = reader.table(width=SIGNATURE_BYTES)
        reader.finish()
        return cls(signatures=signatures)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskShares:
    """Client to server: for each client that shared with it one share, of one kind, of one round."""

    self_mask: Mapping[int, int]
    mask_key: Mapping[int, int]

    def encode(self) -> bytes:
        """8 + 37 bytes for each: first of the self masks of survivors, then of the keys of the dropped."""
        return b"".join(
            write_table({owner: encode_share(share) for owner, share in shares.items()}, width=SHARE_BYTES)
            for shares in (self.self_mask, self.mask_key)
        )

    @classmethod
    def decode(cls, payload: Buffer) -> UnmaskShares:
        """Refuse a client that stands in both tables."""
        reader = Reader(payload)
        self_mask = {u: decode_share(row) for u, row in reader.table(width=SHARE_BYTES).items()}
        mask_key = {u: decode_share(row) for u, row in reader.table(width=SHARE_BYTES).items()}
        reader.finish()
        if not self_mask.keys().isdisjoint(mask_key):
            raise FrameError("shares of both kinds for one client")
        return cls(self_mask=self_mask, mask_key=mask_key)


def write_ids(client_ids: Collection[int]) -> bytes:
    """Encode a set of client ids as a table of empty rows."""
    return write_table(dict.fromkeys(client_ids, b""), width=0)
