"""Whole transcripts from fixed randomness, one for each profile, and frames that must be refused in them.

The client v of the transcript NAME draws from the AES-256-CTR stream whose key is
SHA-256("NAME v"); its Ed25519 secret is SHA-256("signing key v").
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np

from secure_fed_diffusion import entropy, secagg
from secure_fed_diffusion.errors import SecureFedDiffusionError
from secure_fed_diffusion.secagg import encoding
from secure_fed_diffusion.secagg.phases import DONE
from secure_fed_diffusion.secagg.simulate import answer

from .forms import Json, decimal
from .spoilt_frames import changes, spoil

WHOLE_FRAME_BYTES = 1300  # longer frames are recorded by their digest alone
COHORT = (2, 3, 5, 7, 11, 4_000_000_000)

SPECS: dict[str, Json] = {
    "semi_honest": {
        "params": {"n_clients": 4, "threshold": 3, "dimension": 5, "modulus_bits": 20},
        "gone": [{5: "masked_input"}],
    },
    "semi_honest_sparse": {
        "params": {"n_clients": 6, "threshold": 3, "dimension": 5, "modulus_bits": 32, "n_neighbours": 4},
        "gone": [{3: "unmask", 7: "share_keys"}],
    },
    "semi_honest_three_rounds": {
        "params": {"n_clients": 4, "threshold": 3, "dimension": 3, "modulus_bits": 12, "n_rounds": 3},
        "gone": [{3: "masked_input"}, {}, {7: "unmask"}],
        "participants": [None, (2, 3, 7), None],
    },
    "active": {
        "params": {
            "n_clients": 4,
            "threshold": 3,
            "dimension": 5,
            "modulus_bits": 33,
            "profile": "active",
        },
        "gone": [{7: "consistency"}],
    },
    "active_sparse": {
        "params": {
            "n_clients": 6,
            "threshold": 3,
            "dimension": 3,
            "modulus_bits": 64,
            "profile": "active",
            "n_neighbours": 4,
        },
        "gone": [{11: "masked_input"}],
    },
    "verifiable_two_rounds": {
        "params": {
            "n_clients": 4,
            "threshold": 3,
            "dimension": 4,
            "modulus_bits": 24,
            "profile": "active",
            "verifiable": True,
            "n_rounds": 2,
        },
        "gone": [{5: "masked_input"}, {3: "unmask"}],
    },
    "unsafe_unmasked": {
        "params": {
            "n_clients": 3,
            "threshold": 2,
            "dimension": 7,
            "modulus_bits": 9,
            "profile": "unsafe_unmasked",
        },
        "gone": [{3: "masked_input"}],
    },
}

VICTIM = COHORT[0]  # it is there in every phase; the frames of its link are spoilt


def signing_key(client_id: int) -> secagg.SigningKey:
    return secagg.SigningKey(sha256(f"signing key {client_id}".encode()).digest())


def model_of(number: int) -> bytes:
    return sha256(f"model {number}".encode()).digest()


def session_json(name: str) -> Json:
    """The session of a transcript, in the form of the vector files."""
    params = SPECS[name]["params"]
    cohort = COHORT[: params["n_clients"]]
    signed = params.get("profile") == "active"
    return {
        "run_id": b"vectors".hex(),
        "round": 0,
        "attempt": 0,
        "cohort": list(cohort),
        "params": params,
        "model_digest": model_of(0).hex(),
        "roster": {str(v): signing_key(v).public.hex() for v in cohort} if signed else None,
    }


def vectors_of(session: secagg.Session, name: str, number: int) -> dict[int, np.ndarray]:
    """Each client's vector: bytes of a fixed stream, cut to the ring, or to a verifiable sum's bound."""
    params = session.params
    dtype = encoding.ring_dtype(params.modulus_bits)
    vectors = {}
    for v in session.cohort:
        key = sha256(f"vector {name} {number} {v}".encode()).digest()
        drawn = np.frombuffer(entropy.Keystream(key).read(8 * params.dimension), dtype="<u8")
        modulus = np.uint64((1 << params.modulus_bits) - 1)
        if params.verifiable:
            spread = (drawn % np.uint64(2 * params.max_centred + 1)).astype(np.int64) - params.max_centred
            drawn = spread.view(np.uint64)
        vectors[v] = (drawn & modulus).astype(dtype)
    return vectors


class Transcript:
    """Plays a transcript and its bad frames; `record` is what the file holds of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        given = session_json(name)
        self.session = secagg.Session(
            run_id=bytes.fromhex(given["run_id"]),
            round=0,
            attempt=0,
            cohort=tuple(given["cohort"]),
            params=secagg.SecAggParams(**given["params"]),
            model_digest=model_of(0),
            roster=secagg.Roster({int(v): bytes.fromhex(k) for v, k in given["roster"].items()})
            if given["roster"]
            else None,
        )
        self.clients = {v: self._client(v) for v in self.session.cohort}
        self.server = secagg.Server(self.session)
        self._steps_of_victim: list[tuple[int, str, bytes]] = []
        self._rounds: dict[int, tuple[Any, dict[int, np.ndarray]]] = {}
        self.record: Json = {
            "name": name,
            "session": given,
            "session_id": self.session.id.hex(),
            "rounds": [],
            "bad": [],
        }

    def play(self) -> Json:
        spec = SPECS[self.name]
        for number in range(self.session.params.n_rounds):
            participants = spec.get("participants", [None] * 3)[number]
            self._round(number, spec["gone"][number], participants)
        return self.record

    def _client(self, client_id: int) -> secagg.Client:
        return secagg.Client(
            self.session,
            client_id,
            policy=secagg.Policy.accepting(self.session.params),
            entropy=entropy.Keystream(sha256(f"{self.name} {client_id}".encode()).digest()).read,
            signer=signing_key(client_id) if self.session.params.signed else None,
        )

    def _round(self, number: int, gone: Mapping[int, str], participants: tuple[int, ...] | None) -> None:
        vectors = vectors_of(self.session, self.name, number)
        self._rounds[number] = (participants, vectors)
        inbox: dict[int, bytes] = dict.fromkeys(self.session.cohort, b"")
        if number:
            inbox = self.server.begin(number, model_digest=model_of(number), participants=participants)
            for v in inbox:
                self.clients[v].begin(number, model_digest=model_of(number), participants=participants)
        entry: Json = {
            "number": number,
            "model_digest": model_of(number).hex(),
            "participants": None if participants is None else list(participants),
            "gone": {str(v): phase for v, phase in gone.items()},
            "vectors": {str(v): decimal(vector) for v, vector in vectors.items()},
            "frames": [],
        }
        self.record["rounds"].append(entry)
        phases = [step.phase for step in self.session.params.steps]
        previous: dict[str, bytes] = {}
        for phase in phases:
            if phase != self.server.phase and phase != "verify":
                continue
            sent = self._phase(number, phase, inbox, gone, vectors, entry, previous)
            if phase == "verify":
                break
            for v, frame in sent.items():
                self.server.receive(v, frame)
            previous = {"of the phase before": sent[VICTIM]}
            inbox = self.server.advance()
        assert self.server.phase == DONE
        entry["total"] = decimal(self.server.total)
        entry["survivors"] = list(self.server.survivors)

    def _phase(
        self,
        number: int,
        phase: str,
        inbox: Mapping[int, bytes],
        gone: Mapping[int, str],
        vectors: Mapping[int, np.ndarray],
        entry: Json,
        previous: Mapping[str, bytes],
    ) -> dict[int, bytes]:
        sent = {}
        phases = [step.phase for step in self.session.params.steps]
        for v, server_frame in inbox.items():
            if server_frame:
                entry["frames"].append(_frame("server", v, phase, server_frame))
            if v in gone and phases.index(gone[v]) <= phases.index(phase):
                continue
            if v == VICTIM and server_frame:
                other = next(frame for u, frame in inbox.items() if u != VICTIM)
                self._spoil_down(number, phase, server_frame, {"of another client": other})
            if v == VICTIM:
                self._steps_of_victim.append((number, phase, server_frame))
            frame = answer(self.clients[v], phase, server_frame, vectors[v])
            if frame:
                sent[v] = frame
                entry["frames"].append(_frame(v, "server", phase, frame))
        if sent:
            other = next(frame for u, frame in sent.items() if u != VICTIM)
            self._spoil_up(number, phase, sent[VICTIM], {"of another client": other, **previous})
        return sent

    def _spoil_up(self, number: int, phase: str, frame: bytes, others: Mapping[str, bytes]) -> None:
        """Give the server bad frames; it refuses them and takes the right one afterwards."""
        for change in changes(frame, upwards=True, signed=self.session.params.signed, others=others):
            if change.get("frame") == "of the phase before":
                change["error"] = "PhaseError"
            try:
                self.server.receive(VICTIM, spoil(frame, change, others))
                found = None
            except SecureFedDiffusionError as error:
                found = type(error).__name__
            self._note(number, phase, "server", change, found)

    def _spoil_down(self, number: int, phase: str, frame: bytes, others: Mapping[str, bytes]) -> None:
        """Give a client bad frames, each time one that was played up to here."""
        for change in changes(frame, upwards=False, signed=False, others=others):
            client = self._client(VICTIM)
            for before, step, given in self._steps_of_victim:
                self._begin(client, before)
                answer(client, step, given, self._rounds[before][1][VICTIM])
            self._begin(client, number)
            try:
                answer(client, phase, spoil(frame, change, others), self._rounds[number][1][VICTIM])
                found = None
            except SecureFedDiffusionError as error:
                found = type(error).__name__
            self._note(number, phase, "client", change, found)
            assert client.phase == "failed"

    def _begin(self, client: secagg.Client, number: int) -> None:
        slot = client._slot
        if number and (slot is None or slot.number < number):
            client.begin(number, model_digest=model_of(number), participants=self._rounds[number][0])

    def _note(self, number: int, phase: str, taker: str, change: Json, found: str | None) -> None:
        if found != change["error"]:
            where = f"{self.name}, round {number}, {phase}, {taker}, {change['name']}"
            raise AssertionError(f"{where}: expected {change['error']}, got {found}")
        self.record["bad"].append(
            {"round": number, "phase": phase, "taker": taker, "client_id": VICTIM, **change}
        )


def _frame(sender: int | str, receiver: int | str, phase: str, frame: bytes) -> Json:
    entry: Json = {"from": sender, "to": receiver, "phase": phase, "sha256": sha256(frame).hexdigest()}
    if len(frame) <= WHOLE_FRAME_BYTES:
        entry["frame"] = frame.hex()
    return entry


def generate() -> Json:
    """Return the file of all transcripts."""
    return {"transcripts": [Transcript(name).play() for name in SPECS]}
