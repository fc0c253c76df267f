"""Who takes part in a later round is no way to take a client's masks off.

The attack: an active server, with no colluder, gives client 0 the shares of 1 and 2 alone in the set-up, then
names 0, 3 and 4 as the participants of the next round.  Client 0 would mask with nobody but itself, and the
others, who are shown a list with 0 on it, would reveal its self mask.
"""

from __future__ import annotations

import numpy as np
import pytest

from secure_fed_diffusion.errors import PhaseError, TooFewClientsError
from secure_fed_diffusion.secagg import codec
from secure_fed_diffusion.secagg.messages import ShareDelivery
from secure_fed_diffusion.secagg.phases import FAILED, Kind

from .rounds import Round, model_of

HEADER = codec.HEADER_BYTES


def set_up() -> Round:
    return Round.of("active", n_clients=5, threshold=3, n_rounds=3).run_to("masked_input")


def delivery_for_victim(a_round: Round, senders: set[int], participants: tuple[int, ...]) -> bytes:
    params = a_round.session.params
    delivered = ShareDelivery.decode(a_round.inbox[0][HEADER:], params)
    slot = a_round.session.slot(
        1, model_digest=model_of(1), participants=participants, commitment=a_round.server.commitment
    )
    some = ShareDelivery(sealed={v: delivered.sealed[v] for v in senders})
    return codec.pack(Kind.SHARE_DELIVERY, session_id=slot.id, client_id=0, payload=some.encode(params))


def test_a_client_does_not_enter_a_round_without_enough_of_those_it_masks_with() -> None:
    a_round = set_up()
    victim, participants = a_round.clients[0], (0, 3, 4)
    frame = delivery_for_victim(a_round, {1, 2}, participants)
    victim.begin(1, model_digest=model_of(1), participants=participants)
    with pytest.raises(TooFewClientsError, match="expected threshold=3 holders, 1 left"):
        victim.masked_input(frame, np.zeros(16, dtype=np.uint32))
    assert victim.phase == FAILED


def test_with_enough_of_them_the_same_round_is_entered() -> None:
    """The control: what is refused is the number, not the subset."""
    a_round = set_up()
    victim, participants = a_round.clients[0], (0, 1, 2, 3)
    frame = delivery_for_victim(a_round, {1, 2}, participants)
    victim.begin(1, model_digest=model_of(1), participants=participants)
    assert victim.masked_input(frame, np.zeros(16, dtype=np.uint32))


def test_a_client_that_knows_its_peers_refuses_such_a_round_and_keeps_the_others() -> None:
    a_round = set_up()
    victim = a_round.clients[0]
    slot = a_round.session.slot(0, commitment=a_round.server.commitment)
    params = a_round.session.params
    delivered = ShareDelivery.decode(a_round.inbox[0][HEADER:], params)
    some = ShareDelivery(sealed={v: delivered.sealed[v] for v in (1, 2)})
    victim.masked_input(
        codec.pack(Kind.SHARE_DELIVERY, session_id=slot.id, client_id=0, payload=some.encode(params)),
        np.zeros(16, dtype=np.uint32),
    )
    with pytest.raises(TooFewClientsError):
        victim.begin(1, model_digest=model_of(1), participants=(0, 3, 4))
    victim.begin(1, model_digest=model_of(1), participants=(0, 1, 2, 3))
    with pytest.raises(PhaseError):
        victim.begin(0)
