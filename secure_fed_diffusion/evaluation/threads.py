"""How many cores an evaluation may use: training computes on few threads, one evaluation on all of them.

Weights of a training step must not depend on the number of threads, so a run fixes it; nothing of a
metric flows back into training, so an evaluation takes what there is and gives it back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from secure_fed_diffusion.cores import usable_cores


def usable_threads() -> int:
    """Return how many threads suit this process: one a core; at most `OMP_NUM_THREADS`, where it is set."""
    cores = usable_cores()
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
