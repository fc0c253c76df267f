"""Broken rows: what is clipped, scaled or counted is not one record, once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from secure_fed_diffusion.diffusion.objective import draw
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.federation import class_covariances, contribution
from secure_fed_diffusion.federation.class_means import COUNT_SHARE
from secure_fed_diffusion.training.local import ClientData
from secure_fed_diffusion.training.per_example import Records, per_example_gradients
from tests.mutants.broken.mutant import Honest, Table

ROWS = Table()
mutant = ROWS.mutant


@mutant(
    contribution,
    "micro_batches",
    "Each of a record's K draws is a row: clipped by itself, and K of them are summed.",
    named="A7 gradients",
)
def _multiplicity_outside_the_clip(honest: Honest) -> Honest:
    def micro_batches(model: Any, objective: Any, records: Records, size: int) -> Any:
        records = records.at(torch.arange(len(records)))
        for k in range(records.draws.timesteps.shape[1]):
            draws = replace(
                records.draws,
                timesteps=records.draws.timesteps[:, k : k + 1],
                noise=records.draws.noise[:, k : k + 1],
            )
            yield from honest(model, objective, Records(records.images, records.labels, draws), size)

    return micro_batches


@mutant(
    contribution,
    "micro_batches",
    "The rows that pad the last micro-batch are not cut off: its first record counts several times.",
    named="A7 gradients",
)
def _padding_counts(honest: Honest) -> Honest:
    def micro_batches(model: Any, objective: Any, records: Records, size: int) -> Any:
        for start, chunk in zip(
            range(0, len(records), size), honest(model, objective, records, size), strict=True
        ):
            n = min(size, len(records) - start)
            yield {
                name: torch.cat([g[:n], g[:1].expand(size - n, *g.shape[1:])]) for name, g in chunk.items()
            }

    return micro_batches


@mutant(
    contribution,
    "micro_batches",
    "The last micro-batch is not padded: kernels round otherwise for other batch sizes.",
    survives="It changes nothing here: on this machine the kernels give a record the same bits in batches "
    "of every size, in this network and in a U-Net of 18,841 weights. Other machines differ (the "
    "padding is for them), and a run refuses a micro-batch that shows it: "
    "`tests/training/test_per_example.py`.",
)
def _no_padding(honest: Honest) -> Honest:
    def micro_batches(model: Any, objective: Any, records: Records, size: int) -> Any:
        for start in range(0, len(records), size):
            part = records.at(torch.arange(start, min(start + size, len(records))))
            yield per_example_gradients(model, objective, part)

    return micro_batches


@mutant(
    ClientData,
    "records",
    "A record's draws are keyed by its place in the sample: removing one shifts all behind it.",
    named="A7 gradients",
)
def _draws_keyed_by_position(honest: Honest) -> Honest:
    def records(self: ClientData, index: Any, objective: Any, key: Any) -> Records:
        by_place = honest(self, np.arange(len(index)), objective, key)
        rows = torch.from_numpy(index)
        return Records(self.images[rows], self.labels[rows], by_place.draws)

    return records


@mutant(
    ClientData,
    "records",
    "A record's draws are keyed by its row in the file: without one, all behind it move up.",
    named="A7 gradients",
)
def _draws_keyed_by_row(honest: Honest) -> Honest:
    def records(self: ClientData, index: Any, objective: Any, key: Any) -> Records:
        found = honest(self, index, objective, key)
        shape = tuple(found.images.shape[1:])
        return replace(found, draws=draw(objective.settings, shape, keys=[(*key, int(i)) for i in index]))

    return records


@mutant(
    contribution,
    "prototype_rows",
    "A record's pixels and its count in its class are clipped apart, and both are summed.",
    named="A7 class means",
)
def _counts_outside_the_clip(honest: Honest) -> Honest:
    def prototype_rows(images: Any, n_classes: int, clip_norm: float) -> Any:
        pixels = honest(images, n_classes, clip_norm)
        counts = np.zeros_like(pixels)
        counts[:, -n_classes:] = pixels[:, -n_classes:] / COUNT_SHARE
        pixels[:, -n_classes:] = 0.0
        return np.concatenate([pixels, counts])

    return prototype_rows


@mutant(
    class_covariances,
    "_by_class",
    "A record's products and its count in its class are clipped apart, and both are summed.",
    named="A7 class covariances",
)
def _products_and_count_clipped_apart(honest: Honest) -> Honest:
    def by_class(*arguments: Any) -> Any:
        for label, rows in honest(*arguments):
            counts = np.zeros_like(rows)
            counts[:, -1], rows[:, -1] = rows[:, -1], 0.0
            yield label, np.concatenate([rows, counts])

    return by_class


@mutant(
    contribution,
    "covariance_sum",
    "A record's products are scaled and summed, and never clipped.",
    named="A7 class covariances",
)
def _no_clip_of_products(honest: Honest) -> Honest:
    def covariance_sum(images: Any, means: Any, frequencies: int, grid: IntegerGrid) -> Any:
        rows = class_covariances.covariance_mean(images, means, frequencies, grid.clip_norm) * len(images)
        return np.clip(np.rint(rows * grid.scale), -(2.0**62), 2.0**62).astype(np.int64)

    return covariance_sum


@mutant(
    contribution,
    "covariance_sum",
    "Products are taken about the means of the client's own sample: a row depends on those beside it.",
    named="A7 class covariances",
)
def _products_about_own_means(honest: Honest) -> Honest:
    def covariance_sum(images: Any, means: Any, frequencies: int, grid: IntegerGrid) -> Any:
        own = means.copy()
        for label in np.unique(images.labels):
            own[label] = images.images[images.labels == label].mean(axis=0) / 255.0
        return honest(images, own, frequencies, grid)

    return covariance_sum


@mutant(
    IntegerGrid,
    "round",
    "Class means and whole updates are rounded and not clipped.",
    named="A7 client",
)
def _no_clip_of_updates(honest: Honest) -> Honest:
    def round_(self: IntegerGrid, rows: Any) -> Any:
        return np.rint(np.nan_to_num(rows) * self.scale).astype(np.int64)

    return round_


@mutant(
    contribution,
    "integer_sum",
    "A client's sum is divided by how many records it drew.",
    named="A7 gradients",
)
def _mean_of_the_sample(honest: Honest) -> Honest:
    def integer_sum(chunks: Any, grid: IntegerGrid, length: int) -> Any:
        sizes = []

        def counted() -> Any:
            for chunk in chunks:
                drawn = sum(g.flatten(1).abs().sum(dim=1) for g in chunk.values()) > 0  # the rest is padding
                sizes.append(int(drawn.sum()))
                yield chunk

        return honest(counted(), grid, length) * 20 // max(1, sum(sizes))

    return integer_sum
