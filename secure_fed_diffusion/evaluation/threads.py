"""How many cores an evaluation may use: training computes on few threads, one evaluation on all of them.

Weights of a training step must not depend on the number of threads, so a run fixes it; nothing of a
metric flows back into training, so an evaluation takes what there is and gives it back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def usable_cores() -> int:
    """Return the cores that this process may use; `OMP_NUM_THREADS`, where it is set, is the most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wished = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(wished))) if wished.isdecimal() and int(wished) else cores


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch compute on `number` threads inside the block, and on as many as before behind it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
