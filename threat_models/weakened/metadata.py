"""Copies of ours that say more than they must beside the masked vector (T17)."""

from __future__ import annotations

import struct

import numpy as np

from secure_fed_diffusion.secagg import client_round

from .patching import Patch

FRACTION_BITS = 10
"""Of the loss, which is the vector's last coordinate; the one before it is the count of examples."""


def without_masked_metadata(patch: Patch) -> None:
    """The count and the loss travel in clear beside the vector, as in Flower's `FitRes`."""
    masked_input = client_round.ClientRound.masked_input

    def with_metadata(a_round: client_round.ClientRound, vector: np.ndarray) -> bytes:
        count, loss = int(vector[-2]), int(vector[-1]) / 2**FRACTION_BITS
        return bytes(masked_input(a_round, vector)) + struct.pack("<Qd", count, loss)

    patch.setattr(client_round.ClientRound, "masked_input", with_metadata)


def without_frames_of_constant_length(patch: Patch) -> None:
    """Leading zeros of the vector are left out of the frame."""
    masked_input = client_round.ClientRound.masked_input

    def shortened(a_round: client_round.ClientRound, vector: np.ndarray) -> bytes:
        length = 4 * int(np.count_nonzero(vector))  # the mask goes over the vector itself
        return bytes(masked_input(a_round, vector))[:length]

    patch.setattr(client_round.ClientRound, "masked_input", shortened)
