"""Colluding clients, Sybils among them: members of the cohort that hand the server all they know.

>>> ADVERSARY.name
'colluding_clients'
"""

from __future__ import annotations

from dataclasses import dataclass

from threat_models.adversaries.malicious_server import Exchange
from threat_models.adversary import Adversary


@dataclass(frozen=True)
class Coalition(Exchange):
    """What the server and some clients know together: all frames, and the clients' secrets and vectors."""


ADVERSARY = Adversary(
    name="colluding_clients",
    title="Colluding clients and Sybils",
    capabilities=(
        "give the server their secrets, their shares, their vectors and their noise",
        "are as many as the server can enrol, up to the roster's honest members",
    ),
    views=(Coalition,),
    assets=("the update of an honest client",),
    assumptions=("fewer of them than the threshold of shares", "at most as many as the noise plan names"),
    non_claims=("n-1 of them against one client in mode distributed: its own noise share is all it has",),
)
