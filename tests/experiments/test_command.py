"""What a person gets of an experiment's command: one line for an error, and Ctrl-C that ends all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.command import finish, run_to_its_end, worker_pool
from experiments.sweeping import each_once
from secure_fed_diffusion.errors import ConfigError, RunError

# A process that is started in the background may have Ctrl-C switched off; a person's has not.
LISTENS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("expected 1, got 2", key="a.b"), 2, "a.b: expected 1, got 2"),
        (RunError("no such\nrun"), 1, "no such run"),
        (FileNotFoundError(2, "No such file or directory", "x.toml"), 1, "x.toml: No such file or directory"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_an_error_for_a_person_is_one_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as left:
        finish(main)
    assert left.value.code == status
    said = capsys.readouterr().err
    assert said.endswith(f": {line}\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_what_main_returns_is_the_status(returned: int | None, status: int) -> None:
    with pytest.raises(SystemExit) as left:
        finish(lambda: returned)
    assert left.value.code == status


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        finish(lambda: 1 // 0)


def test_the_status_of_a_command_is_handed_on() -> None:
    assert run_to_its_end([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def interrupted(program: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run a program until it writes `ready`, press Ctrl-C, and return how it ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENS + program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(600):
        if (tmp_path / "ready").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_ctrl_c_leaves_a_command_the_time_to_stop_what_it_started(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(
        LISTENS + "import time, pathlib\n"
        "try:\n    pathlib.Path('ready').touch()\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    time.sleep(1)\n    pathlib.Path('put away').touch()\n    raise SystemExit(130)\n",
        encoding="utf-8",
    )
    done = interrupted(
        "import sys\nfrom experiments.command import finish, run_to_its_end\n"
        "finish(lambda: run_to_its_end([sys.executable, 'child.py']))",
        tmp_path,
    )
    assert (tmp_path / "put away").exists()
    assert done.returncode == 130
    assert done.stderr.endswith(": stopped\n")
    assert done.stderr.count("\n") == 1


@dataclass
class Job:
    name: str


def fails_on_bad(job: Job) -> dict[str, str]:
    if job.name == "bad":
        raise ConfigError("bad", key="a.b")
    time.sleep(0.3)
    return {"name": job.name}


def test_after_a_failed_job_what_ran_is_kept_and_what_waited_is_left(tmp_path: Path) -> None:
    names = ["good", "bad", *map(str, range(20))]
    with pytest.raises(ConfigError, match=r"^a\.b: bad$"):
        each_once([Job(name) for name in names], fails_on_bad, tmp_path, 2)
    kept = {path.stem for path in tmp_path.iterdir()}
    assert "good" in kept
    assert len(kept) < 10
    assert "bad" not in kept


def test_a_killed_worker_is_an_error_for_a_person() -> None:
    with pytest.raises(RunError, match="a worker process was killed"), worker_pool(1) as pool:
        pool.submit(os._exit, 1).result()


def test_ctrl_c_ends_jobs_side_by_side_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(
        "import time\nfrom dataclasses import dataclass\nfrom pathlib import Path\n"
        "@dataclass\nclass Job:\n    name: str\n"
        "def quick_then_slow(job):\n"
        "    if job.name == 'slow':\n"
        "        while not Path('out/quick.json').exists():\n            time.sleep(0.01)\n"
        "        Path('ready').touch()\n        time.sleep(60)\n"
        "    return {'name': job.name}\n",
        encoding="utf-8",
    )
    done = interrupted(
        "import sys\nsys.path.insert(0, '.')\nfrom pathlib import Path\n"
        "from experiments.command import finish\n"
        "from experiments.sweeping import each_once\nfrom jobs import Job, quick_then_slow\n"
        "names = [Job('quick'), Job('slow'), Job('never')]\n"
        "finish(lambda: each_once(names, quick_then_slow, Path('out'), 1))",
        tmp_path,
    )
    assert done.returncode == 130
    assert done.stderr.strip().endswith(": stopped")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["quick.json"]
