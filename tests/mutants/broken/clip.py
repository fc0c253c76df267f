"""Broken clipping: a record's gradient is not clipped, or ends above Δ when it is rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secure_fed_diffusion.audit.canaries import Planted
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.federation import contribution
from secure_fed_diffusion.training import integer_sums
from tests.mutants.broken.mutant import Honest, Table

CLIP = Table()
mutant = CLIP.mutant


def _split(total: Tensor, parts: Any) -> list[Tensor]:
    return list(total.split([part.shape[1] for part in parts]))


def _of_rows(round_rows: Callable[[Tensor, IntegerGrid], Tensor]) -> Callable[..., list[list[Tensor]]]:
    """Return a broken `rounded_sums` from a broken rounding of whole rows (n, d)."""

    def rounded_sums(parts: Any, grid: IntegerGrid, owned: Any) -> list[list[Tensor]]:
        rounded = round_rows(torch.cat(list(parts), dim=1), grid).double()
        return [_split(rounded[rows].sum(dim=0), parts) for rows in owned]

    return rounded_sums


@mutant(
    integer_sums, "rounded_sums", "Gradients are scaled and rounded, and never clipped.", named="A7 gradients"
)
def _no_clip(honest: Honest) -> Honest:
    def round_rows(rows: Tensor, grid: IntegerGrid) -> Tensor:
        return torch.nan_to_num(rows * grid.scale, posinf=0.0, neginf=0.0).round()

    return _of_rows(round_rows)


@mutant(
    integer_sums,
    "rounded_sums",
    "The mean gradient of a micro-batch is clipped, not each record's.",
    named="A7 gradients",
)
def _clip_of_the_batch(honest: Honest) -> Honest:
    def round_rows(rows: Tensor, grid: IntegerGrid) -> Tensor:
        rows = torch.nan_to_num(rows, posinf=0.0, neginf=0.0)
        mean = rows.mean(dim=0) if len(rows) else rows.sum(dim=0)
        factor = min(1.0, grid.clip_norm / max(1e-30, float(mean.norm())))
        return (rows * (factor * grid.scale)).round()

    return _of_rows(round_rows)


@mutant(
    contribution,
    "integer_sum",
    "Records are not clipped, canaries are: an audit of canaries alone would lie.",
    named="A7 gradients",
)
def _no_clip_of_records_alone(honest: Honest) -> Honest:
    def integer_sum(chunks: Any, grid: IntegerGrid, length: int) -> Any:
        total = np.zeros(length, dtype=np.int64)
        for chunk in chunks:
            if set(chunk) == {"canaries"}:
                total += honest([chunk], grid, length)
            else:
                flat = torch.cat([g.flatten(1) for g in chunk.values()], dim=1)
                rows = torch.nan_to_num(flat * grid.scale, posinf=0.0, neginf=0.0)
                total += rows.double().round().sum(dim=0).to(torch.int64).numpy()
        return total

    return integer_sum


@mutant(
    Planted,
    "gradients",
    "A canary's gradient is four times shorter than the clip: the audit measures less than a record can do.",
    named="A0 conformance",
)
def _short_canaries(honest: Honest) -> Honest:
    def gradients(self: Planted, drawn: Any, *, clip_norm: float, **names: Any) -> Any:
        return honest(self, drawn, clip_norm=clip_norm / 16, **names)

    return gradients


@mutant(
    contribution,
    "integer_sum",
    "Canaries are given twice the clip of records: the audit would accuse a correct run.",
    named="A0 conformance",
)
def _larger_clip_for_canaries(honest: Honest) -> Honest:
    def integer_sum(chunks: Any, grid: IntegerGrid, length: int) -> Any:
        total = np.zeros(length, dtype=np.int64)
        for chunk in chunks:
            total += honest([chunk], grid, length) * (1 + (set(chunk) == {"canaries"}))
        return total

    return integer_sum


@mutant(
    integer_sums,
    "rounded_sums",
    "A gradient with a NaN or an infinity goes on as it is.",
    named="A7 gradients",
)
def _NaN_passes(honest: Honest) -> Honest:
    def rounded_sums(parts: Any, grid: IntegerGrid, owned: Any) -> list[list[Tensor]]:
        rows = torch.cat(list(parts), dim=1)
        rows = torch.where(torch.isfinite(rows).all(dim=1, keepdim=True), 0.0, rows * grid.scale).round()
        spoiled = [_split(rows[some].sum(dim=0), parts) for some in owned]
        pairs = zip(honest(parts, grid, owned), spoiled, strict=True)
        return [[sum(pair) for pair in zip(*both, strict=True)] for both in pairs]

    return rounded_sums


@mutant(
    integer_sums,
    "rounded_sums",
    "Coordinates are rounded away from zero and the integer norm is not looked at: it ends above Δ.",
    named="A7 gradients",
)
def _rounding_up(honest: Honest) -> Honest:
    def round_rows(rows: Tensor, grid: IntegerGrid) -> Tensor:
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        scaled = torch.nan_to_num(rows * (grid.scale * torch.clamp(grid.clip_norm / norms, max=1.0)))
        return scaled.sign() * scaled.abs().ceil()

    return _of_rows(round_rows)


@mutant(
    integer_sums,
    "_outside",
    "The norm of the rounded integers is not tested: rounding to nearest may have left the ball.",
    named="A7 gradients",
)
def _no_exact_norm(honest: Honest) -> Honest:
    return lambda rows, bound: []


@mutant(
    integer_sums,
    "flat_rows",
    "Gradients are flattened in the wrong memory order: a row is made of several records.",
    named="A7 gradients",
)
def _channels_last_rows(honest: Honest) -> Honest:
    def flat_rows(gradient: Tensor) -> Tensor:
        return gradient.movedim(0, -1).reshape(len(gradient), gradient.shape[1:].numel()).float()

    return flat_rows


@mutant(
    integer_sums,
    "rounded_sums",
    "The norm is taken of a view that leaves out the last hundred coordinates.",
    named="sum of own vectors",
)
def _norm_of_a_view(honest: Honest) -> Honest:
    def round_rows(rows: Tensor, grid: IntegerGrid) -> Tensor:
        norms = torch.linalg.vector_norm(rows[:, :-100], dim=1, keepdim=True).clamp_min(1e-30)
        scaled = rows * (grid.scale * torch.clamp(grid.clip_norm / norms, max=1.0))
        return torch.nan_to_num(scaled, posinf=0.0, neginf=0.0).round()

    return _of_rows(round_rows)
