"""What all the apps share: their part of the digits, the public test set, and what is kept of each round."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

N_NODES = 4
N_ROUNDS = 3
N_TEST = 360


def part(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return node `index`'s images, shape (n, 64) in [0, 1], and labels; nodes differ in size."""
    x, y = _all()
    bounds = np.cumsum([0, 200, 300, 400, len(x) - N_TEST - 900])
    return x[bounds[index] : bounds[index + 1]], y[bounds[index] : bounds[index + 1]]


def test_set() -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels that no node has."""
    x, y = _all()
    return x[-N_TEST:], y[-N_TEST:]


def keep(server_round: int, arrays: Sequence[np.ndarray], accuracy: float) -> None:
    """Write a round's global model and its accuracy into the folder that OUT names."""
    folder = Path(os.environ["OUT"])
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{server_round}.npz", *arrays)
    (folder / f"{server_round}.json").write_text(json.dumps({"accuracy": accuracy}), encoding="utf-8")


def _all() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return (x[order] / 16).astype(np.float32), y[order]
