"""A frame that is not for the step that is due can be refused without using anything up."""

from __future__ import annotations

import numpy as np
import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import FrameError, PhaseError

PARAMS = secagg.SecAggParams(n_clients=4, threshold=3, dimension=3, modulus_bits=16, n_rounds=2)
SESSION = secagg.Session(
    run_id=b"run", round=0, attempt=0, cohort=(0, 1, 2, 3), params=PARAMS, model_digest=bytes(32)
)
VECTOR = np.ones(3, dtype=np.uint16)


def test_a_frame_of_another_client_step_or_round_changes_nothing() -> None:
    server = secagg.Server(SESSION)
    clients = {i: secagg.Client(SESSION, i) for i in SESSION.cohort}
    wrong: list[bytes] = []

    def to_all(frames: dict[int, bytes], step: str, *more: object) -> dict[int, bytes]:
        for i, frame in frames.items():
            for other in (*wrong, frames[(i + 1) % 4], frame[:-1], frame + b"\0", b""):
                with pytest.raises(FrameError):
                    clients[i].require_addressed(other)
            clients[i].require_addressed(frame)
            assert clients[i].phase == step
            server.receive(i, getattr(clients[i], step)(frame, *more))
        wrong.append(frames[0])
        return server.advance()

    for i, client in clients.items():
        server.receive(i, client.advertise())
    frames = to_all(to_all(server.advance(), "share_keys"), "masked_input", VECTOR)
    assert to_all(frames, "unmask") == {}
    assert server.total.tolist() == [4, 4, 4]
    with pytest.raises(PhaseError):
        clients[0].require_addressed(frames[0])
    for client in clients.values():
        client.begin(1, model_digest=bytes([1]) * 32)
    frames = to_all(server.begin(1, model_digest=bytes([1]) * 32), "masked_input", VECTOR)
    assert to_all(frames, "unmask") == {}
    assert server.total.tolist() == [4, 4, 4]


def test_a_client_whose_step_takes_no_frame_refuses_any() -> None:
    with pytest.raises(FrameError, match="takes no frame"):
        secagg.Client(SESSION, 0).require_addressed(b"")


def opened() -> tuple[secagg.Server, dict[int, secagg.Client], dict[int, bytes]]:
    """A set-up, and the frames that open its first round."""
    server = secagg.Server(SESSION)
    clients = {i: secagg.Client(SESSION, i) for i in SESSION.cohort}
    for i, client in clients.items():
        server.receive(i, client.advertise())
    for i, frame in server.advance().items():
        server.receive(i, clients[i].share_keys(frame))
    return server, clients, server.advance()


def test_shares_are_opened_before_there_is_an_input_and_the_step_is_still_due() -> None:
    server, clients, opening = opened()
    for i, frame in opening.items():
        clients[i].open_shares(frame)
        clients[i].open_shares(frame)  # what is open stays open
        server.receive(i, clients[i].masked_input(frame, VECTOR))
    for i, frame in server.advance().items():
        with pytest.raises(PhaseError):
            clients[i].open_shares(opening[i])
        assert clients[i].phase == "failed"
        with pytest.raises(PhaseError):
            clients[i].unmask(frame)


def test_shares_that_do_not_open_fail_the_client_as_they_do_in_the_step() -> None:
    _, clients, opening = opened()
    frame = opening[0]
    with pytest.raises(FrameError, match="do not open"):
        clients[0].open_shares(frame[:-1] + bytes([frame[-1] ^ 1]))
    with pytest.raises(PhaseError):
        clients[0].masked_input(frame, VECTOR)
