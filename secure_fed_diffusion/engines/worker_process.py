"""The main program of a worker: equipment, then jobs on standard input; answers on standard output.

A thread of its own reads, so that the end of the pipe ends the process at once, whatever it computes.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
import traceback
import warnings
from typing import IO

from secure_fed_diffusion.engines.workers import Service, receive, send_arrays, send_error
from secure_fed_diffusion.errors import SecureFedDiffusionError


def main() -> None:
    """Serve until the pipe ends."""
    jobs_in = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    sys.stdout = sys.stderr
    warnings.simplefilter("ignore")  # the parent has made the same model, and said what there is to say
    messages: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs_in, messages), daemon=True).start()
    service: Service | None = None
    failed: BaseException | None = None
    try:
        service = pickle.loads(messages.get())()
    except BaseException as error:  # said in answer to the first job
        failed = error
        traceback.print_exc()
    while True:
        message = messages.get()
        try:
            if service is None:
                raise failed or RuntimeError("no service")
            arrays = service(pickle.loads(message))
        except BaseException as error:  # said to whoever asked
            if service is not None and not isinstance(error, SecureFedDiffusionError):
                traceback.print_exc()
            send_error(answers, error, refused=service is not None)
        else:
            send_arrays(answers, arrays)


def _listen(stream: IO[bytes], messages: queue.SimpleQueue[bytearray]) -> None:
    try:
        while True:
            messages.put(receive(stream))
    except (EOFError, OSError):
        os._exit(0)
