"""Worker processes that compute: each is given its equipment once, then jobs; it gives back arrays.

A worker is a fresh interpreter (nothing is forked, so it does not matter what this process has loaded) that
does not import the caller's main module.  Down go a pickled equipment and pickled jobs; back come the
results' raw numbers, or the name and text of an error of ours: nothing that a worker says is unpickled.
A worker ends when its pipe does: at `close`, or when this process dies in whatever way, in the middle of a
job as well.  Ctrl-C reaches this process alone.

Not protected against: whoever can read this machine's memory; workers are the same user's processes.

>>> import operator
>>> with Workers(1, operator.methodcaller("lower")) as workers:  # doctest: +SKIP
...     workers.submit("a job").result()
"""

from __future__ import annotations

import pickle
import queue
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.errors import BY_NAME, RunError, SecureFedDiffusionError

Arrays = Sequence[npt.NDArray[np.uint64]]
Service = Callable[[Any], Arrays]
"""What computes a job."""

ARRAYS, REFUSAL, ACCIDENT = b"V", b"E", b"A"  # the first byte of an answer
_COUNT, _LENGTH = struct.Struct("<I"), struct.Struct("<Q")
_START = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from secure_fed_diffusion.engines.worker_process import main; main()"
)


class WorkerError(RunError):
    """A worker died, or failed with an error that is none of ours: no refusal of one client, the run ends."""


class Workers:
    """`n` processes that take jobs in turn, whichever is free; they start with the first job, or `warm`.

    `make` is called once in each, without arguments, and returns its `Service`; it must be picklable by name.
    """

    def __init__(self, n: int, make: Callable[[], Service]) -> None:
        self.n = n
        self._make = make
        self._jobs: queue.SimpleQueue[tuple[Any, Future[Arrays]] | None] = queue.SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._finalizer = weakref.finalize(self, _stop, self._jobs, self._processes)

    def warm(self) -> None:
        """Start the processes; they load what they need while this one does something else."""
        if not self._finalizer.alive:
            raise RunError("these workers were closed")
        if self._processes:
            return
        equipment = pickle.dumps(self._make, protocol=pickle.HIGHEST_PROTOCOL)
        for _ in range(self.n):
            process = subprocess.Popen(
                [sys.executable, "-c", _START, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for this process, which then closes their pipes
            )
            self._processes.append(process)
            threading.Thread(target=_serve, args=(process, [equipment], self._jobs), daemon=True).start()

    def submit(self, job: Any) -> Future[Arrays]:
        """Hand a job to whichever worker is free next.

        Raises (the future):
            SecureFedDiffusionError: what the service raised, by type and text.
            WorkerError: the worker died, or its service failed with any other error.
        """
        self.warm()
        done: Future[Arrays] = Future()
        self._jobs.put((job, done))
        return done

    def close(self) -> None:
        """End the processes; a job under way is given up."""
        self._finalizer()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _stop(jobs: queue.SimpleQueue[Any], processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        jobs.put(None)
        process.kill()
    for process in processes:
        process.wait()


def _serve(process: subprocess.Popen[bytes], equipment: list[bytes], jobs: queue.SimpleQueue[Any]) -> None:
    """Pass jobs to one worker until there are no more; one that is gone fails each job that it takes."""
    down, up = process.stdin, process.stdout
    if down is None or up is None:
        raise RunError("a worker without pipes")
    with suppress(OSError):
        send(down, equipment.pop())  # gone from here once it is there
    while (item := jobs.get()) is not None:
        job, done = item
        try:
            send(down, pickle.dumps(job, protocol=pickle.HIGHEST_PROTOCOL))
            done.set_result(_read_answer(up))
        except SecureFedDiffusionError as error:
            done.set_exception(error)
        except (OSError, EOFError) as error:
            done.set_exception(WorkerError(f"a worker process ended ({type(error).__name__})"))
        except BaseException as error:  # a job that cannot be pickled: the caller's mistake
            done.set_exception(error)
    for pipe in (down, up):
        with suppress(OSError):  # what was still to be written, to a process that is gone
            pipe.close()


def send(stream: IO[bytes], data: bytes) -> None:
    """Write a message."""
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> bytearray:
    """Read a message.

    Raises:
        EOFError: the other side is gone.
    """
    return _read(stream, _LENGTH.unpack(_read(stream, _LENGTH.size))[0])


def _read(stream: IO[bytes], length: int) -> bytearray:
    data = bytearray(length)
    view, start = memoryview(data), 0
    while start < length:
        n = stream.readinto(view[start:])  # type: ignore[attr-defined]
        if not n:
            raise EOFError
        start += n
    return data


def send_arrays(stream: IO[bytes], arrays: Arrays) -> None:
    """Answer a job with its results."""
    stream.write(ARRAYS + _COUNT.pack(len(arrays)))
    for array in arrays:
        send(stream, np.ascontiguousarray(array, dtype="<u8").tobytes())
    stream.flush()


def send_error(stream: IO[bytes], error: BaseException, *, refused: bool) -> None:
    """Answer a job with an error: one of ours that refuses it in words, of any other its type alone."""
    kind = type(error).__name__.encode()
    if refused and isinstance(error, SecureFedDiffusionError) and type(error).__name__ in BY_NAME:
        stream.write(REFUSAL)
        send(stream, kind)
        send(stream, str(error).encode())
    else:
        stream.write(ACCIDENT)
        send(stream, kind)
    stream.flush()


def _read_answer(stream: IO[bytes]) -> Arrays:
    status = bytes(_read(stream, 1))
    if status == ARRAYS:
        (count,) = _COUNT.unpack(_read(stream, _COUNT.size))
        return [
            np.frombuffer(receive(stream), dtype="<u8").astype(np.uint64, copy=False) for _ in range(count)
        ]
    kind = receive(stream).decode()
    if status == REFUSAL:
        raise BY_NAME[kind](receive(stream).decode())
    raise WorkerError(f"a worker failed with {kind}; what it said stands above")
