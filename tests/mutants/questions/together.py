"""Are clients that are computed together as apart as if each had computed alone?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.audit.canaries import Canaries, Planted, SampleNotes
from secure_fed_diffusion.audit.replay import Event, replay
from secure_fed_diffusion.entropy import Entropy
from secure_fed_diffusion.federation import together
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import seeded
from tests.mutants.laboratory import Laboratory, TinyDenoiser, digits
from tests.mutants.questions.check import Table
from tests.mutants.questions.replay import held_without, others_keep_their_coins

TOGETHER = Table()
check = TOGETHER.check

HELD = (40, 17, 1)  # records of the clients: neither ends where a micro-batch of 16 does
WEIGHTS = flatten(TinyDenoiser()).numpy()


def _group(
    lab: Laboratory,
    plan: Plan,
    entropy: Callable[[int], Entropy],
    coins: Callable[[int], Entropy],
    gone: Mapping[int, int] = MappingProxyType({}),
) -> list[Contributor]:
    """Return the clients; `gone`: which of its records a client lacks."""
    ends = np.cumsum((0, *HELD))
    return [
        lab.contributor(
            plan,
            client_id,
            held_without(
                digits().train.subset(slice(ends[client_id], ends[client_id + 1])), gone.get(client_id)
            ),
            entropy=entropy(client_id),
            coins=coins(client_id),
        )
        for client_id in range(len(HELD))
    ]


def _others_keep_their_coins(gone: Mapping[int, int]) -> Any:
    tossed = Contributor._sample

    def sample(self: Contributor, *arguments: Any) -> npt.NDArray[np.intp]:
        if self.client_id not in gone:
            return tossed(self, *arguments)
        with others_keep_their_coins(gone[self.client_id]):
            return tossed(self, *arguments)

    return patch.object(Contributor, "_sample", sample)


GAPS: Sequence[tuple[str, int, int]] = (
    ("the first of all", 0, 0),
    ("the last before another client's", 0, HELD[0] - 1),
    ("the first behind another client's", 1, 0),
    ("a record in the middle", 1, 7),
    ("the only record", 2, 0),
)


@check(
    "A7 together",
    "Replay of several clients' step in shared micro-batches without one record of one of them: its own "
    "vector moves by the sensitivity at most, no other's at all.",
)
def _replay_group(lab: Laboratory) -> str | None:
    plan = lab.plan("distributed", "modes.distributed.sampling_rate=1.0", "privacy.epsilon=1000")
    release = plan.releases["training"]

    for name, owner, gap in GAPS:
        seen: list[npt.NDArray[np.int64]] = []  # of the data, of the same data again, of the neighbour

        def query(gone: Mapping[int, int], entropy: Entropy, event: Event) -> npt.NDArray[Any]:
            group = _group(lab, plan, lambda client: entropy, lambda client: entropy, gone)
            with _others_keep_their_coins(gone):
                found = together.vectors(group, release, WEIGHTS, number=1, attempt=0)
            seen.append(np.stack(found).view(np.int64).copy())  # noqa: B023  (called before the next turn)
            return seen[-1]  # noqa: B023

        found = replay(
            query, {}, {owner: gap}, sensitivity=release.grid.norm_bound, entropy=seeded("replay")
        ).finding
        if found:
            return f"{name}: {found}"
        others = [client for client in range(len(HELD)) if client != owner]
        if not np.array_equal(seen[0][others], seen[-1][others]):
            return f"{name}: another client's vector moved"
    return None


@check(
    "together as alone",
    "Clients in shared micro-batches send, canaries included, to the bit what each would send alone.",
)
def _as_alone(lab: Laboratory) -> str | None:
    plan = lab.plan("distributed", "audit.canaries=40", "modes.distributed.sampling_rate=0.5")
    release = plan.releases["training"]
    canaries = Canaries.flip(plan.canaries, clients=len(HELD), entropy=seeded("canaries"))

    def group() -> list[Contributor]:
        return [
            replace(each, planted=Planted(coordinates=canaries.of(each.client_id), notes=SampleNotes()))
            for each in _group(
                lab, plan, lambda client: seeded("noise", client), lambda client: seeded("coins", client)
            )
        ]

    alone = [each.vector(release, WEIGHTS, number=2, attempt=0) for each in group()]
    beside = together.vectors(group(), release, WEIGHTS, number=2, attempt=0)
    off = [client for client in range(len(HELD)) if not np.array_equal(alone[client], beside[client])]
    return f"other vectors than alone: of clients {off}" if off else None
