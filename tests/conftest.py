"""One thread: the models here are small, and two threads of a small model wait for each other."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
