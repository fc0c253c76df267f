"""The vector files: regenerated bit for bit, and every good and bad case behaves as it is written."""

from __future__ import annotations

import json
import struct
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import SecureFedDiffusionError
from secure_fed_diffusion.secagg.phases import PROFILES, Kind

from ..vectors import forms, generate, message_operations, operations, spoilt_frames, transcripts

FOLDER = Path(generate.__file__).parent
FILES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
CASES = [
    pytest.param(case, id=f"{case['operation']}, {case['name']}")
    for file in FILES.values()
    for case in file.get("cases", ())
]
TRANSCRIPTS = {transcript["name"]: transcript for transcript in FILES["transcripts"]["transcripts"]}


def test_the_generator_gives_the_committed_files_bit_for_bit() -> None:
    """This plays all transcripts and every bad frame in them as well."""
    generated = generate.generate()
    assert generated.keys() == FILES.keys()
    for name, content in generated.items():
        assert generate.written(content) == (FOLDER / f"{name}.json").read_text(), f"{name}.json"


@pytest.mark.parametrize("case", CASES)
def test_a_case_gives_its_output_and_its_bad_ones_fail_as_written(case: dict[str, Any]) -> None:
    operation, inputs = case["operation"], case["inputs"]
    assert operations.perform(operation, inputs) == (case["output"], None)
    assert len(case["bad"]) >= 5
    for bad in case["bad"]:
        output, error = operations.perform(operation, {**inputs, **bad["inputs"]})
        if bad["error"] == "mismatch":
            assert error is None, bad["name"]
            assert output != case["output"], bad["name"]
        else:
            assert error == bad["error"], bad["name"]


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.values[0]["operation"].startswith(("messages.", "codec.table"))]
)
def test_what_a_message_decodes_to_encodes_to_the_same_bytes(case: dict[str, Any]) -> None:
    encoded = message_operations.encoded(case["operation"].split(".")[1], case["output"], case["inputs"])
    assert encoded == case["inputs"]["payload"]


def test_every_operation_message_and_profile_has_a_vector_and_the_files_are_small() -> None:
    performed = {case.values[0]["operation"] for case in CASES}
    assert performed == set(operations.OPERATIONS)
    kinds = {
        bytes.fromhex(frame["frame"])[5]
        for transcript in TRANSCRIPTS.values()
        for entry in transcript["rounds"]
        for frame in entry["frames"]
        if "frame" in frame
    }
    assert kinds == {int(kind) for kind in Kind}
    played = {secagg.SecAggParams(**t["session"]["params"]).steps for t in TRANSCRIPTS.values()}
    assert all(any(steps[: len(known)] == known for steps in played) for known in PROFILES.values())
    assert max(len(t["rounds"]) for t in TRANSCRIPTS.values()) == 3
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) < 1_500_000


# The transcripts, read from the file alone.


def hashed(*parts: bytes) -> bytes:
    return sha256(b"".join(struct.pack("<Q", len(part)) + part for part in parts)).digest()


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_ids_headers_and_totals_follow_from_the_file_with_the_standard_library_alone(name: str) -> None:
    transcript = TRANSCRIPTS[name]
    session, suite = transcript["session"], FILES["transcripts"]["suite"].encode()
    params, cohort = session["params"], session["cohort"]
    roster = b""
    if session["roster"]:
        rows = sorted((int(v), bytes.fromhex(key)) for v, key in session["roster"].items())
        packed = b"".join(struct.pack("<I", v) + key for v, key in rows)
        roster = sha256(b"secure_fed_diffusion secagg v3 roster" + packed).digest()
    session_id = hashed(
        suite,
        params.get("profile", "semi_honest").encode(),
        bytes.fromhex(session["run_id"]),
        struct.pack("<II", session["round"], session["attempt"]),
        struct.pack(
            "<5Q",
            *(params[key] for key in ("n_clients", "threshold", "dimension", "modulus_bits")),
            params.get("n_neighbours", 0),
        ),
        struct.pack("<I?", params.get("n_rounds", 1), params.get("verifiable", False)),
        struct.pack(f"<{len(cohort)}I", *cohort),
        roster,
        bytes.fromhex(session["model_digest"]),
    )
    assert session_id.hex() == transcript["session_id"]
    for entry in transcript["rounds"]:
        ids = set()
        for frame in entry["frames"]:
            if "frame" not in frame:
                continue
            raw = bytes.fromhex(frame["frame"])
            assert sha256(raw).hexdigest() == frame["sha256"]
            magic, version, _, client_id, n_bytes, bound_to = struct.unpack_from("<4sBBIQ32s", raw)
            assert (magic, version, n_bytes) == (b"SFDA", 3, len(raw) - 50)
            assert client_id in (frame["from"], frame["to"])
            setup = frame["phase"] in ("advertise", "choose", "share_keys")
            assert (bound_to == session_id) == setup
            if not setup:
                ids.add(bound_to)
        assert len(ids) == 1
        vectors = {int(v): [int(x) for x in values] for v, values in entry["vectors"].items()}
        plain = [
            sum(column) % 2 ** params["modulus_bits"]
            for column in zip(*(vectors[v] for v in entry["survivors"]), strict=True)
        ]
        assert plain == [int(x) for x in entry["total"]]


def up_frames(entry: dict[str, Any], phase: str) -> dict[int, bytes]:
    return {
        f["from"]: bytes.fromhex(f["frame"])
        for f in entry["frames"]
        if f["phase"] == phase and f["to"] == "server"
    }


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_server_fed_from_the_file_sends_the_recorded_frames_and_refuses_the_bad_ones(name: str) -> None:
    transcript = TRANSCRIPTS[name]
    server = secagg.Server(forms.session_of(transcript["session"]))
    n_refused: Counter[tuple[int, str]] = Counter()
    for entry in transcript["rounds"]:
        number, opened = entry["number"], {}
        if number:
            opened = server.begin(
                number, model_digest=bytes.fromhex(entry["model_digest"]), participants=entry["participants"]
            )
        before: dict[int, bytes] = {}
        while server.phase != "done":
            phase = server.phase
            frames = up_frames(entry, phase)
            recorded = {
                f["to"]: f["sha256"] for f in entry["frames"] if f["phase"] == phase and f["from"] == "server"
            }
            assert {v: sha256(frame).hexdigest() for v, frame in opened.items()} == recorded
            for bad in transcript["bad"]:
                if (bad["round"], bad["phase"], bad["taker"]) != (number, phase, "server"):
                    continue
                v = bad["client_id"]
                others = {"of another client": next(f for u, f in frames.items() if u != v)}
                if before:
                    others["of the phase before"] = before[v]
                with pytest.raises(SecureFedDiffusionError) as caught:
                    server.receive(v, spoilt_frames.spoil(frames[v], bad, others))
                assert type(caught.value).__name__ == bad["error"], bad["name"]
                n_refused[number, phase] += 1
            for v, frame in frames.items():
                server.receive(v, frame)
            opened, before = server.advance(), frames
        assert forms.decimal(server.total) == entry["total"]
        assert list(server.survivors) == entry["survivors"]
    assert min(n_refused.values()) >= 5
    assert {phase for _, phase in n_refused} == {
        step.phase for step in server.session.params.steps if step.sends is not None
    }


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_every_server_frame_of_the_first_client_s_link_has_five_bad_ones(name: str) -> None:
    transcript = TRANSCRIPTS[name]
    n_bad = Counter((b["round"], b["phase"]) for b in transcript["bad"] if b["taker"] == "client")
    sent = {
        (entry["number"], frame["phase"])
        for entry in transcript["rounds"]
        for frame in entry["frames"]
        if frame["to"] == transcripts.VICTIM
    }
    assert sent == n_bad.keys()
    assert not sent or min(n_bad.values()) >= 5


def test_a_vector_that_is_altered_is_noticed() -> None:
    """The control of the tests above."""
    case = json.loads(json.dumps(FILES["keys"]["cases"][4]))
    case["bad"][0]["error"] = "mismatch" if case["bad"][0]["error"] != "mismatch" else "FrameError"
    with pytest.raises(AssertionError):
        test_a_case_gives_its_output_and_its_bad_ones_fail_as_written(case)
