"""What one client keeps secret between two frames: used up round by round, burned as a whole on failure.

Every round of a set-up has its own mask key, self-mask seed and shares of others'.  `take_round` hands
them out once and forgets them with all that came before, so a later frame finds nothing to reveal.

`to_dict` and `from_dict` serve a client that must outlive its process (see `Client.snapshot`).

Not protected against: Python cannot overwrite memory; a burned secret is unreachable, not erased.

>>> ring = Keyring(rounds={0: RoundSecrets(bytes(32), bytes(32))})
>>> ring.take_round(0)[1], ring.rounds
({}, {})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import FrameError, PhaseError
from .seal import SharePair


class RoundSecrets(NamedTuple):
    """A client's own secrets of one round: an X25519 private key and the seed of its self mask."""

    mask_key: bytes
    seed: bytes

    def __repr__(self) -> str:
        return "RoundSecrets(...)"


@dataclass(slots=True, repr=False)
class Keyring:
    """One client's secrets; empty once burned."""

    cipher_key: bytes = b""
    contribution: bytes = b""
    group_key: bytes = b""
    rounds: dict[int, RoundSecrets] = field(default_factory=dict)
    opening_keys: dict[int, bytes] = field(default_factory=dict)
    mask_publics: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    held: dict[int, dict[int, SharePair]] = field(default_factory=dict)  # by round, then by owner

    def hold(self, owner: int, pairs: tuple[SharePair, ...]) -> None:
        """Keep what `owner` entrusted for each round."""
        for number, pair in enumerate(pairs):
            self.held.setdefault(number, {})[owner] = pair

    def take_round(self, number: int) -> tuple[RoundSecrets, dict[int, SharePair]]:
        """Hand out the own secrets and the shares held for a round, once, and forget all up to it.

        Raises:
            PhaseError: they were used, or burned.
        """
        own, held = self.rounds.get(number), self.held.get(number, {})
        if own is None:
            raise PhaseError(f"the secrets of round {number} of this set-up are used or burned")
        self.rounds = {later: kept for later, kept in self.rounds.items() if later > number}
        self.held = {later: kept for later, kept in self.held.items() if later > number}
        return own, held

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON types: as secret as a private key."""
        return {
            "cipher_key": self.cipher_key.hex(),
            "contribution": self.contribution.hex(),
            "group_key": self.group_key.hex(),
            "rounds": {number: [part.hex() for part in own] for number, own in self.rounds.items()},
            "opening_keys": {peer: key.hex() for peer, key in self.opening_keys.items()},
            "mask_publics": {peer: [k.hex() for k in keys] for peer, keys in self.mask_publics.items()},
            "held": {number: shares_to_dict(held) for number, held in self.held.items()},
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Keyring:
        """Return the keyring that `to_dict` wrote."""
        hexed = bytes.fromhex
        return cls(
            cipher_key=hexed(saved["cipher_key"]),
            contribution=hexed(saved["contribution"]),
            group_key=hexed(saved["group_key"]),
            rounds={int(n): RoundSecrets(*map(hexed, own)) for n, own in saved["rounds"].items()},
            opening_keys={int(peer): hexed(key) for peer, key in saved["opening_keys"].items()},
            mask_publics={int(p): tuple(map(hexed, keys)) for p, keys in saved["mask_publics"].items()},
            held={int(n): shares_from_dict(held) for n, held in saved["held"].items()},
        )


def shares_to_dict(held: Mapping[int, SharePair]) -> dict[int, list[str]]:
    """Return shares by owner as JSON types."""
    return {owner: [f"{share:x}" for share in pair] for owner, pair in held.items()}


def shares_from_dict(saved: Mapping[str, Any]) -> dict[int, SharePair]:
    """Return the shares that `shares_to_dict` wrote."""
    try:
        return {int(owner): SharePair(*(int(share, 16) for share in pair)) for owner, pair in saved.items()}
    except (TypeError, ValueError):
        raise FrameError("a snapshot that this version did not write") from None
