"""Shares that even the classes out in a sample, from counts that were released with noise.

A record is Poisson-sampled at the plan's rate q, and what is drawn of class y is thinned by a share s_y: its
probability is q·s_y <= q, by the coins themselves, whatever the shares are.  So every charge is made at q,
the largest rate.  That is sound for add/remove: the divergence of (1-q')P + q'Q from P, and of P from it, is
convex in q' and 0 at q' = 0, so it does not fall as q' grows to q; and so the pair at q dominates each step,
whatever was released before it.

The shares are public, post-processing of the class means' release, announced with the weights, and bound
with them to the round.  A client cuts them to [0, 1] itself, so that a server that lies about them can
spoil the balance and no more.

Not protected against: an epsilon that knows of the lower rates; nobody is given one for being frequent.

>>> class_shares(np.array([50.0, 200.0, 100.0]), least_share=0.25).tolist()
[1.0, 0.25, 0.5]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.dp.noise import poisson_sample
from secure_fed_diffusion.entropy import Entropy
from secure_fed_diffusion.federation.class_means import COUNT_SHARE


def noisy_counts(
    totals: npt.NDArray[np.float64], *, n_classes: int, clip_norm: float
) -> npt.NDArray[np.float64]:
    """Return the counts (n_classes,) in a noisy sum of class means: of the sampled, clipped records."""
    return totals[-n_classes:] / (COUNT_SHARE * clip_norm)


def class_shares(counts: npt.NDArray[np.float64], *, least_share: float) -> npt.NDArray[np.float32]:
    """Return, for each class, the rarest class's size over its own, within [least_share, 1].

    A class without records, by its noisy count, is no measure for the others: sizes are taken as at least
    `least_share` of the largest.
    """
    largest = float(counts.max(initial=0.0))
    if not largest > 0:
        return np.ones(len(counts), dtype=np.float32)
    sizes = np.maximum(counts, least_share * largest)
    return (sizes.min() / sizes).astype(np.float32)


def thin(
    sample: npt.NDArray[np.intp],
    labels: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float32],
    coins: Entropy,
) -> npt.NDArray[np.intp]:
    """Return those of the drawn records that stay; `labels` are theirs, one a record of `sample`.

    Guarantees: nothing is added, so no record's probability grows, whatever `shares` holds; each record has
    a coin of its own.
    """
    stays = np.zeros(len(sample), dtype=np.bool_)
    for label, share in enumerate(np.clip(np.nan_to_num(shares), 0.0, 1.0).tolist()):
        own = labels == label
        if share > 0:
            stays[own] = poisson_sample(int(own.sum()), share, coins)
    return sample[stays]
