"""Worker processes: results come back whole, errors by type, and no worker outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion.engines.workers import Arrays, Workers
from secure_fed_diffusion.errors import ConfigError, PolicyError, RunError, SecureFedDiffusionError

SECRET = "0xdeadbeef"


class Service:
    """What a worker does in these tests: a job says what."""

    def __call__(self, job: tuple[str, Any]) -> Arrays:
        what, value = job
        if what == "squares":
            print("a library says something")
            return [np.arange(n, dtype=np.uint64) ** np.uint64(2) for n in value]
        if what == "process":
            return [np.array([os.getpid()], dtype=np.uint64)]
        if what == "refuse":
            raise PolicyError("too few holders")
        if what == "stumble":
            raise ValueError(f"the vector is {SECRET}")
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "sleep":
            Path(value).write_text(str(os.getpid()))
            time.sleep(600)
        raise AssertionError(what)


def never() -> Service:
    raise ConfigError("no such network")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(2, Service) as them:
        yield them


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    if not Path("/proc").is_dir():
        return True
    try:
        state = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # reaped since
        return False
    return state.rsplit(")", 1)[1].split()[0] != "Z"


def wait_until_gone(process: int) -> bool:
    for _ in range(600):
        if not is_alive(process):
            return True
        time.sleep(0.05)
    return False


def test_results_come_back_number_for_number_whatever_a_library_prints(workers: Workers) -> None:
    jobs = [workers.submit(("squares", [n, 0, 3])) for n in range(5)]
    for n, job in enumerate(jobs):
        first, empty, last = job.result()
        assert first.tolist() == [i * i for i in range(n)]
        assert (empty.tolist(), last.tolist(), last.dtype) == ([], [0, 1, 4], np.uint64)


def test_the_work_is_done_elsewhere(workers: Workers) -> None:
    process = int(workers.submit(("process", None)).result()[0][0])
    assert process != os.getpid()


def test_an_error_of_ours_comes_back_as_what_it_is(workers: Workers) -> None:
    with pytest.raises(PolicyError, match="too few holders"):
        workers.submit(("refuse", None)).result()
    assert workers.submit(("squares", [2])).result()[0].tolist() == [0, 1]


def test_any_other_error_is_named_without_its_text(workers: Workers) -> None:
    with pytest.raises(RunError, match="ValueError") as raised:
        workers.submit(("stumble", None)).result()
    assert SECRET not in str(raised.value)


def test_a_worker_that_dies_fails_its_job() -> None:
    with Workers(1, Service) as them, pytest.raises(RunError, match="ended"):
        them.submit(("die", None)).result()


def test_a_worker_without_its_equipment_fails_each_job_and_refuses_none() -> None:
    with Workers(1, never) as them:
        for _ in range(2):
            with pytest.raises(RunError, match="ConfigError"):
                them.submit(("squares", [1])).result()


def test_closing_ends_a_worker_in_the_middle_of_a_job(tmp_path: Path) -> None:
    with Workers(1, Service) as them:
        job = them.submit(("sleep", str(tmp_path / "pid")))
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.05)
    with pytest.raises(SecureFedDiffusionError):
        job.result()
    assert wait_until_gone(int((tmp_path / "pid").read_text()))
    with pytest.raises(RunError, match="closed"):
        them.submit(("squares", [1]))


def test_closed_workers_keep_no_pipe_open() -> None:
    with Workers(2, Service) as them:
        them.submit(("squares", [1])).result()
        pipes = [pipe for each in them._processes for pipe in (each.stdin, each.stdout)]
    for _ in range(100):
        if all(pipe.closed for pipe in pipes):
            return
        time.sleep(0.05)
    raise AssertionError("a pipe is still open")


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_dies_with_its_parent_however_that_dies(death: int, tmp_path: Path) -> None:
    program = (
        "from secure_fed_diffusion.engines.workers import Workers\n"
        "from tests.engines.test_workers import Service\n"
        "import sys\n"
        "with Workers(1, Service) as them: them.submit(('sleep', sys.argv[1])).result()\n"
    )
    note = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", program, str(note)])
    while not note.exists() or not note.read_text():
        assert parent.poll() is None
        time.sleep(0.05)
    worker = int(note.read_text())
    assert is_alive(worker)
    parent.send_signal(death)
    parent.wait()
    assert wait_until_gone(worker)


def test_ctrl_c_is_for_the_parent(tmp_path: Path) -> None:
    program = (
        "from secure_fed_diffusion.engines.workers import Workers\n"
        "from tests.engines.test_workers import Service\n"
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it\n"
        "them = Workers(1, Service)\n"
        "try: them.submit(('sleep', sys.argv[1])).result()\n"
        "except KeyboardInterrupt: print('stopped')\n"
    )
    note = tmp_path / "pid"
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(note)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not note.exists() or not note.read_text():
        assert parent.poll() is None
        time.sleep(0.05)
    os.killpg(parent.pid, signal.SIGINT)
    said, complained = parent.communicate()
    assert (said, complained) == ("stopped\n", "")
    assert wait_until_gone(int(note.read_text()))
