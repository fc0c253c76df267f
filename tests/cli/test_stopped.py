"""A run that is stopped, by Ctrl-C or struck down: it says how to go on, is paid for, and goes on."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.federation.run import Run, read_lines
from tests.cli.asking import TWO_ROUNDS, Ask, assert_refused

# Runs `sfd`, and notes each masked input once it has left the client's hands.
WATCHED = """
import json, os, signal, sys
from secure_fed_diffusion import cli
from secure_fed_diffusion.federation import client
signal.signal(signal.SIGINT, signal.default_int_handler)
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
honest = client.Client.handle
def handle(self, frame):
    announced = self._announcement
    answer = honest(self, frame)
    if announced is not None and self._announcement is None:
        left = [announced.round, announced.attempt, self.client_id]
        os.write(log, (json.dumps(left) + "\\n").encode())
    return answer
client.Client.handle = handle
cli.main()
"""


def test_ctrl_c_says_how_to_go_on(
    sfd: Ask, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def interrupted(self: Run, observer: object) -> dict[str, object]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "execute", interrupted)
        answer = sfd("run", config_file, "--out", out, "--json", *TWO_ROUNDS)
    assert_refused(answer, 130, "go on with: sfd run", f"--out {out} --resume")
    # The line is a command: it holds for what was begun, `--set` included.
    command = answer.err.partition("go on with: sfd ")[2].split()
    resumed = sfd(*command, "--json")
    assert resumed.status == 0, resumed.err
    assert json.loads(resumed.out)["finished"] is True


def test_ctrl_c_before_the_first_frame_leaves_nothing_but_a_line(
    sfd: Ask, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("secure_fed_diffusion.federation.prepare.make_plan", interrupted)
    answer = sfd("run", config_file, "--out", tmp_path / "run")
    assert (answer.status, answer.err) == (130, "sfd: stopped\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL], ids=lambda blow: blow.name)
def test_a_run_that_is_struck_down_is_paid_for_and_goes_on(
    blow: signal.Signals, sfd: Ask, config_file: Path, tmp_path: Path
) -> None:
    folder, log = tmp_path / "run", tmp_path / "left.jsonl"
    words = ["run", str(config_file), "--out", str(folder), "--set", "modes.distributed.rounds=6"]
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(log), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not read_lines(folder / "metrics.jsonl"):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)  # into a round
        process.send_signal(blow)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in err
    if blow == signal.SIGINT:
        assert process.returncode == 130
        assert "--resume" in err
    else:
        assert process.returncode == -signal.SIGKILL
    assert "report:" not in out

    left = {tuple(json.loads(line)) for line in log.read_text().splitlines()}
    charges = [
        json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines(keepends=True)[1:]
    ]
    assert len(left) >= 5
    assert left <= {(c["round"], c["attempt"], c["client_id"]) for c in charges}
    assert verify(folder / "ledger.jsonl").lines == 1 + len(charges)

    resumed = sfd("run", folder / "config.toml", "--out", folder, "--resume", "--json")
    assert resumed.status == 0, resumed.err
    summary = json.loads(resumed.out)
    assert summary["finished"] is True
    assert [line["round"] for line in read_lines(folder / "metrics.jsonl")] == list(range(1, 8))
    assert verify(folder / "ledger.jsonl", head=summary["ledger_head"]).truncation_excluded
    spent = summary["epsilon"]["sum_c1"]["pld"]
    assert 0 < spent <= 10.0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("reader", ["/dev/full", "closed"])
def test_a_run_whose_words_nobody_takes_says_how_to_go_on(
    reader: str, sfd: Ask, config_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["run", str(config_file), "--out", str(out), *TWO_ROUNDS]
    if reader == "closed":
        unread, stdout = os.pipe()
        os.close(unread)
    else:
        stdout = os.open(reader, os.O_WRONLY)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "secure_fed_diffusion.cli", *words],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(stdout)
    assert done.returncode == 1
    assert done.stderr.startswith("sfd: standard output: ")
    assert done.stderr.count("\n") == 1
    resumed = sfd(*done.stderr.partition("go on with: sfd ")[2].split(), "--json")
    assert resumed.status == 0, resumed.err
    assert json.loads(resumed.out)["finished"] is True


def test_a_run_that_cannot_write_its_folder_says_so_and_how_to_go_on(
    sfd: Ask, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def full(self: Run, observer: object) -> dict[str, object]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Run, "execute", full)
    answer = sfd("run", config_file, "--out", out, "--json", *TWO_ROUNDS)
    assert_refused(answer, 1, f"a file in {out}: No space left on device; go on with: sfd run", "--resume")
