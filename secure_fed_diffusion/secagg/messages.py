"""The messages: each owns its encoding and its exact length.

`encode` gives a payload, `decode` takes one or raises `FrameError`; the header is `codec`'s.  A
decoder checks form (lengths, order, field elements, public keys); whether a message fits the round
is for the machine that takes it.

>>> Advert.decode(Advert(cipher_key=b"\\x09" + bytes(31), mask_key=b"\\x09" + bytes(31)).encode())
Traceback (most recent call last):
secure_fed_diffusion.errors.FrameError: the two public keys of an advert are the same
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import FrameError
from .codec import Buffer, Reader, write_table
from .encoding import RingVector, pack, unpack
from .keys import KEY_BYTES, check_public
from .params import SecAggParams
from .seal import SEALED_BYTES, decode_share, encode_share
from .shamir import SHARE_BYTES

COMMITMENT_BYTES = 32
ADVERT_BYTES = 2 * KEY_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert:
    """Client to server: the public keys for sealing and for masks, both ephemeral."""

    cipher_key: bytes
    mask_key: bytes

    def encode(self) -> bytes:
        """64 bytes."""
        return self.cipher_key + self.mask_key

    @classmethod
    def decode(cls, payload: Buffer) -> Advert:
        """Refuse keys of low order, keys that are not canonical, and one key for both."""
        if len(payload) != ADVERT_BYTES:
            raise FrameError(f"expected an advert of {ADVERT_BYTES} bytes, got {len(payload)}")
        advert = cls(cipher_key=bytes(payload[:KEY_BYTES]), mask_key=bytes(payload[KEY_BYTES:]))
        check_public(advert.cipher_key)
        check_public(advert.mask_key)
        if advert.cipher_key == advert.mask_key:
            raise FrameError("the two public keys of an advert are the same")
        return advert


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvertList:
    """Server to client: the adverts of its neighbours, by client id."""

    adverts: Mapping[int, Advert]

    def encode(self) -> bytes:
        """4 + 68 bytes for each."""
        return write_table({v: advert.encode() for v, advert in self.adverts.items()}, width=ADVERT_BYTES)

    @classmethod
    def decode(cls, payload: Buffer) -> AdvertList:
        """Refuse any key that appears twice."""
        reader = Reader(payload)
        rows = reader.table(width=ADVERT_BYTES)
        reader.finish()
        adverts = {client_id: Advert.decode(row) for client_id, row in rows.items()}
        public_keys = {key for advert in adverts.values() for key in (advert.cipher_key, advert.mask_key)}
        if len(public_keys) != 2 * len(adverts):
            raise FrameError("two clients advertise the same public key")
        return cls(adverts=adverts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Client to server: a commitment to the self-mask seed, and sealed shares by receiver."""

    commitment: bytes
    sealed: Mapping[int, bytes]

    def encode(self) -> bytes:
        """36 + 86 bytes for each."""
        return self.commitment + write_table(self.sealed, width=SEALED_BYTES)

    @classmethod
    def decode(cls, payload: Buffer) -> Shares:
        """Read the form alone; what is sealed is for its receiver."""
        reader = Reader(payload)
        commitment = bytes(reader.take(COMMITMENT_BYTES))
        sealed = reader.table(width=SEALED_BYTES)
        reader.finish()
        return cls(commitment=commitment, sealed=sealed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareDelivery:
    """Server to client: the shares sealed for it, by sender."""

    sealed: Mapping[int, bytes]

    def encode(self) -> bytes:
        """4 + 86 bytes for each."""
        return write_table(self.sealed, width=SEALED_BYTES)

    @classmethod
    def decode(cls, payload: Buffer) -> ShareDelivery:
        """Read the form alone."""
        reader = Reader(payload)
        sealed = reader.table(width=SEALED_BYTES)
        reader.finish()
        return cls(sealed=sealed)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedInput:
    """Client to server: its vector under all its masks."""

    vector: RingVector
    modulus_bits: int

    def encode(self) -> memoryview:
        """ceil(dimension * modulus_bits / 8) bytes."""
        return pack(self.vector, self.modulus_bits)

    @classmethod
    def decode(cls, payload: memoryview, params: SecAggParams) -> MaskedInput:
        """Read a vector of the ring."""
        return cls(
            vector=unpack(payload, params.dimension, params.modulus_bits), modulus_bits=params.modulus_bits
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivors:
    """Server to client: whose masked input is in the sum.  The others are the complement, by construction."""

    present: npt.NDArray[np.bool_]

    @classmethod
    def among(cls, cohort: tuple[int, ...], client_ids: Set[int]) -> Survivors:
        """List those of the cohort that are in `client_ids`."""
        present = (client_id in client_ids for client_id in cohort)
        return cls(present=np.fromiter(present, dtype=bool, count=len(cohort)))

    def encode(self) -> bytes:
        """One bit for each of the cohort, in ascending order of id."""
        return np.packbits(self.present, bitorder="little").tobytes()

    @classmethod
    def decode(cls, payload: Buffer, n_clients: int) -> Survivors:
        """Read the bits; those beyond the cohort are zero."""
        n_bytes = (n_clients + 7) // 8
        if len(payload) != n_bytes:
            raise FrameError(f"expected {n_bytes} bytes of survivors, got {len(payload)}")
        bits = np.unpackbits(np.frombuffer(payload, dtype=np.uint8), bitorder="little")
        if bits[n_clients:].any():
            raise FrameError("the survivors' padding is not zero")
        return cls(present=bits[:n_clients].astype(np.bool_))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskShares:
    """Client to server: for each client that shared with it one share, of one kind."""

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
