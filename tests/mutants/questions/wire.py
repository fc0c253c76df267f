"""Does anything leave a client but its part of a sum, under masks that change no sum?"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import chi2

from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.federation import rounds, server_view
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.messages import unwrap
from secure_fed_diffusion.federation.release import Release
from secure_fed_diffusion.secagg import keys, masks
from secure_fed_diffusion.secagg.encoding import unpack
from tests.federation.small import seeded
from tests.mutants.laboratory import Laboratory, digits, other_records
from tests.mutants.questions.check import LEVEL, Table

WIRE = Table()
check = WIRE.check


@check("equal to central", "Without noise, masked shares and a trusted server agree in every coordinate.")
def _central(lab: Laboratory) -> str | None:
    short = [f"modes.{mode}.rounds=3" for mode in ("distributed", "central")]
    masked, plain = (
        lab.play(lab.federation(mode, *short, *more, noise=False))
        for mode, *more in (("distributed",), ("central", "federation.masked=false"))
    )
    for ours, theirs in zip(masked.outcomes, plain.outcomes, strict=True):
        if not np.array_equal(ours.total, theirs.total):
            return f"round {ours.planned.number}: the sums differ"
    return None if torch.equal(masked.weights, plain.weights) else "the weights differ"


def _vector(frame: bytes, release: Release) -> npt.NDArray[np.uint64]:
    """Return the masked vector at the end of a frame that nobody signed."""
    size = (release.length * release.modulus_bits + 7) // 8
    return unpack(memoryview(frame)[len(frame) - size :], release.length, release.modulus_bits)


def _not_uniform(vectors: list[npt.NDArray[Any]], release: Release) -> bool:
    """Test the four leading bits of vectors of the ring."""
    ring = (1 << release.modulus_bits) - 1
    top = (np.concatenate(vectors).astype(np.uint64) & np.uint64(ring)) >> np.uint64(release.modulus_bits - 4)
    counts = np.bincount(top.astype(np.int64), minlength=16)
    statistic = float(((counts - counts.mean()) ** 2).sum() / counts.mean())
    return bool(chi2.sf(statistic, 15) < LEVEL / 10)


@check("frames are uniform", "Masked vectors, and differences of two rounds', are uniform on the ring.")
def _uniform(lab: Laboratory) -> str | None:
    played = lab.distributed
    release = played.it.plan.releases["training"]
    vectors: dict[int, list[npt.NDArray[np.uint64]]] = {}
    for outcome in played.outcomes[1:]:
        for client_id, frame in outcome.frames["masked_input"].items():
            vectors.setdefault(client_id, []).append(_vector(frame, release).astype(np.uint64))
    for client_id, sent in vectors.items():
        differences = [later - earlier for earlier, later in pairwise(sent)]
        for what, seen in (("vectors", sent), ("differences of rounds", differences)):
            if _not_uniform(seen, release):
                return f"client {client_id}'s {what} are not uniform"
    return None


@check(
    "late frames stay masked", "Of a client called lost, the server can take off the masks of pairs alone."
)
def _late(lab: Laboratory) -> str | None:
    it = lab.federation(
        "distributed",
        "warmup.draws=0",
        "modes.distributed.rounds=2",
        protocol=lambda client: seeded("keys", client),
    )
    release, honest, pair_mask_key = it.plan.releases["training"], it.engine.handlers[0], keys.pair_mask_key
    uncovered: list[npt.NDArray[Any]] = []
    known: list[bytes] = []

    def late(frame: bytes) -> bytes:
        answer = honest(frame)
        if frame[0] != 0 and unwrap(frame)[0] == "masked_input":
            uncovered.append(_vector(answer, release).copy())
            known.clear()  # what the server computes from here on
            raise RunError("late")
        return answer

    def overheard(*arguments: Any, own_id: int, **names: Any) -> Any:
        key = pair_mask_key(*arguments, own_id=own_id, **names)
        if own_id == 0:
            known.append(key.stream)
        return key

    it.engine.handlers = {**it.engine.handlers, 0: late}
    with patch.object(keys, "pair_mask_key", overheard):
        for _ in it.rounds():
            masks.apply(uncovered[-1], minus=known)  # the lower id added them
    if len(known) != len(it.clients) - 1:
        return "the server did not learn the masks of the pairs"
    if _not_uniform([uncovered[1] - uncovered[0]], release):
        return "the difference of two late frames is not uniform"
    return None


@check("nothing else leaves", "Other records under the same contributions change no byte of what is seen.")
def _nothing_else(lab: Laboratory) -> str | None:
    present = Contributor.vector
    sums: dict[tuple[int, int, int], npt.NDArray[np.uint64]] = {}

    def shown(dataset: Any) -> tuple[list[bytes], list[str]]:
        def vector(self: Contributor, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
            computed = present(self, release, weights, number=number, attempt=attempt)
            return sums.setdefault((self.client_id, number, attempt), computed)

        it = lab.federation(
            "distributed", "modes.distributed.rounds=1", dataset=dataset, protocol=lambda c: seeded("keys", c)
        )
        frames: list[bytes] = []
        lines: list[str] = []

        def overheard(handler: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
            def handle(frame: bytes) -> bytes:
                frames.append(handler(frame))
                return frames[-1]

            return handle

        it.engine.handlers = {c: overheard(handler) for c, handler in it.engine.handlers.items()}
        said = io.StringIO()
        with patch.object(Contributor, "vector", vector), contextlib.redirect_stdout(said):
            try:
                for outcome in it.rounds():
                    line = rounds.record(it.plan, it.ledger, outcome)
                    release = it.plan.releases[outcome.planned.release]
                    number, total = outcome.planned.number, outcome.total
                    view = server_view.describe(number, outcome.frames, total, release, signed=False)
                    lines += [json.dumps({**line, "seconds": None}), json.dumps(view)]
            except RunError:  # a frame that the server refuses has left its client all the same
                lines.append("stopped")
        return frames, [*lines, said.getvalue(), it.ledger_path.read_text()]

    (frames, lines), (others, other_lines) = shown(digits()), shown(other_records(digits()))
    if frames != others:
        return "a client's frame holds something else of its data"
    return None if lines == other_lines else "a line for people holds something of the data"
