"""How the metrics are called in `metrics.jsonl`, and what a reader must know to show them.

A metric that looks through features ends in the extractor's name (`fid_lenet84_mnist`, `kid_inception`):
its figures compare with those of the same extractor alone.  Beside it stands the same figure of REAL
public images (`fid_floor_lenet84_mnist`), which a perfect generator would reach; for accuracies it is
`floor_tstr_cnn`.  A 95 % interval of an accuracy, where there is one, is the pair `interval_tstr_cnn`.

This module imports nothing, so that readers of a run's folder need no torch.

>>> is_metric("kid_lenet84_mnist"), is_metric("kid_floor_lenet84_mnist"), is_metric("interval_tstr_cnn")
(True, False, False)
>>> floor_key("kid_lenet84_mnist"), floor_key("tstr_cnn")
('kid_floor_lenet84_mnist', 'floor_tstr_cnn')
"""

from __future__ import annotations

DISTANCES = ("fid", "kid")
"""Families where less is better; 0 is equality, and KID may fall below it by chance."""

PROTOTYPE_ACCURACY = "prototype_accuracy"
CLASS_MEANS_ACCURACY = "class_means_accuracy"
TSTR = "tstr"

WORDS = {
    "fid": "FID",
    "kid": "KID",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    TSTR: "TSTR accuracy",
}
_WHOLE = {
    PROTOTYPE_ACCURACY: "Prototype accuracy",
    CLASS_MEANS_ACCURACY: "Nearest released class mean, accuracy",
}


def family(key: str) -> str | None:
    """Return what a key measures (`fid`, `tstr`, ..., `prototype_accuracy`), or None if it is no metric."""
    if key in _WHOLE:
        return key
    first, _, rest = key.partition("_")
    return first if first in WORDS and rest and not rest.startswith("floor_") else None


def is_metric(key: str) -> bool:
    """Say whether a key of a metrics line holds a measured utility: no floor, no interval."""
    return family(key) is not None


def is_accuracy(key: str) -> bool:
    """Say whether a key holds an accuracy on real test images, in [0, 1]."""
    return key in _WHOLE or family(key) == TSTR


def is_distance(key: str) -> bool:
    """Say whether less is better."""
    return family(key) in DISTANCES


def floor_key(key: str) -> str:
    """Return the key of the same figure for real public images."""
    if is_accuracy(key):
        return f"floor_{key}"
    kind, _, extractor = key.partition("_")
    return f"{kind}_floor_{extractor}"


def interval_key(key: str) -> str:
    """Return the key of the 95 % interval of an accuracy."""
    return f"interval_{key}"


def name(key: str) -> str:
    """Return the words for a metric, its floor or its interval; any other key comes back as it is.

    >>> name("fid_floor_lenet84_mnist"), name("floor_tstr_cnn")
    ('FID floor (lenet84_mnist)', 'TSTR accuracy (cnn), real images')
    """
    if key in _WHOLE:
        return _WHOLE[key]
    for prefix, suffix in (("floor_", ", real images"), ("interval_", ", 95 % interval")):
        if is_accuracy(key.removeprefix(prefix)) and key.startswith(prefix):
            return f"{name(key.removeprefix(prefix))}{suffix}"
    kind, _, rest = key.partition("_")
    if kind not in WORDS or not rest:
        return key
    if rest.startswith("floor_"):
        return f"{WORDS[kind]} floor ({rest.removeprefix('floor_')})"
    return f"{WORDS[kind]} ({rest})"
