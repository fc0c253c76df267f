"""How an experiment's command ends: with its results, or with one line that says what was wrong.

    if __name__ == "__main__":
        finish(main)

The exit status is what `main` returns, or as `sfd`'s: 1 for an error, 2 for a setting that cannot be
honoured, 130 after Ctrl-C.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn

from secure_fed_diffusion.errors import ConfigError, RunError, SecureFedDiffusionError


def finish(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` on the command line and leave; an error that is meant for a person is one line."""
    try:
        raise SystemExit(main() or 0)
    except KeyboardInterrupt:
        _leave("stopped", 130)
    except ConfigError as error:
        _leave(str(error), 2)
    except SecureFedDiffusionError as error:
        _leave(str(error), 1)
    except OSError as error:
        _leave(f"{error.filename or 'a file'}: {error.strerror or error}", 1)


def run_to_its_end(command: Sequence[str], *, stdout: int | IO[bytes] | None = None) -> int:
    """Run a command and return its status; Ctrl-C is its own to answer, and is raised here when it is done.

    `subprocess.run` would kill it a quarter of a second after the first Ctrl-C, and what it started with it
    would go on alone.
    """
    stopped = False
    with subprocess.Popen(command, stdout=stdout) as process:
        while True:
            try:
                status = process.wait()
                break
            except KeyboardInterrupt:
                stopped = True
    if stopped:
        raise KeyboardInterrupt
    return status


@contextmanager
def worker_pool(n: int) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of `n` processes; an error, or Ctrl-C, leaves undone what no process has begun.

    Ctrl-C on a terminal ends the processes at once, without a word of theirs.

    Raises:
        RunError: a process was killed.
    """
    pool = ProcessPoolExecutor(max(1, n), initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_DFL))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise RunError("a worker process was killed, perhaps for memory: try fewer side by side") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave(message: str, status: int) -> NoReturn:
    program = Path(sys.argv[0])
    print(f"{program.parent.name}.{program.stem}: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)
