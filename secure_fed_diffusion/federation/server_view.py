"""What the server saw in one round, for people: frames and bytes by phase, and two histograms.

The first histogram is of one client's masked vector, as it came over the wire; the second of the decoded
sum.  Both are things that the server has anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.federation.release import Release
from secure_fed_diffusion.secagg.encoding import unpack
from secure_fed_diffusion.secagg.signing import SIGNATURE_BYTES

CONTENT = {
    "advertise": "one-time public keys: two a client, or one more for each further round of the set-up",
    "share_keys": "sealed shares that only their addressees can open",
    "masked_input": "one vector a client, uniform to whoever lacks the masks",
    "choose": "the neighbours that each client drew",
    "consistency": "signatures over the list of survivors, one a client",
    "unmask": "shares: of the self-masks of survivors, of the pairwise keys of the vanished",
    "plain": "each client's contribution in clear",
}
LEARNED = (
    "who took part, who vanished, and when",
    "the sum of the survivors' contributions, and so the model of each round",
)
NEVER = (
    "an image, a gradient or an update of any one client",
    "how many records a client drew, or has of any class (frames have one size; response time is not hidden)",
    "a client's loss, or how much of its gradients was clipped",
)
_BINS = 48


def histogram(values: npt.NDArray[Any]) -> dict[str, list[float]]:
    """Return the histogram of `values` as JSON types."""
    counts, edges = np.histogram(values.astype(np.float64), bins=_BINS)
    return {"bin_edges": edges.tolist(), "counts": counts.tolist()}


def describe(
    number: int,
    frames: Mapping[str, Mapping[int, bytes]],
    total: npt.NDArray[np.int64],
    release: Release,
    *,
    signed: bool,
) -> dict[str, Any]:
    """Return `server_view.json`: `frames` are the clients' own, by phase and client."""
    view: dict[str, Any] = {
        "round": number,
        "phases": [
            {
                "phase": phase,
                "frames": len(sent),
                "bytes": sum(len(frame) for frame in sent.values()),
                "content": CONTENT[phase],
            }
            for phase, sent in frames.items()
        ],
        "sum_histogram": histogram(total[: release.mechanism.dimension]),
        "learned": list(LEARNED),
        "never": list(NEVER) if "masked_input" in frames else [],
    }
    masked = frames.get("masked_input")
    if masked:
        client_id, frame = next(iter(masked.items()))
        packed = (release.length * release.modulus_bits + 7) // 8
        end = len(frame) - (SIGNATURE_BYTES if signed else 0)
        vector = unpack(memoryview(frame)[end - packed : end], release.length, release.modulus_bits)
        view |= {"masked_histogram": histogram(vector), "client_id": client_id}
    return view
