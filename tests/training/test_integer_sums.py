from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.training import integer_sums
from secure_fed_diffusion.training.integer_sums import integer_sum

ANY_FLOAT32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
CLIPS = pytest.mark.parametrize(
    "gamma", [None, 1e-12, 0.01, 1e6], ids=lambda g: "flat" if g is None else f"{g:g}"
)


def squares(rows: torch.Tensor) -> list[int]:
    return [sum(int(v) ** 2 for v in row) for row in rows.double().tolist()]


def round_rows(rows: torch.Tensor, grid: IntegerGrid) -> torch.Tensor:
    """Return what each row adds to a sum that all of them are in: (n, d) float64."""
    whole = integer_sum([{"w": rows.clone()}], grid, rows.shape[1])
    each = np.stack([integer_sum([{"w": row[np.newaxis].clone()}], grid, len(row)) for row in rows])
    assert np.array_equal(each.sum(axis=0), whole)  # so no row depends on the others
    return torch.from_numpy(each).double()


@settings(max_examples=200, deadline=None)
@given(
    rows=hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=ANY_FLOAT32),
    clip=st.floats(1e-3, 1e3),
    gamma=st.none() | st.floats(1e-12, 1e12),
)
def test_no_row_leaves_the_integer_ball_whatever_comes_in(
    rows: np.ndarray, clip: float, gamma: float | None
) -> None:
    grid = IntegerGrid.for_dimension(rows.shape[1], clip, gamma=gamma)
    rounded = round_rows(torch.from_numpy(rows.copy()), grid)
    assert torch.equal(rounded, rounded.round())
    assert max(squares(rounded)) <= grid.norm_bound**2
    broken = ~np.isfinite(rows).all(axis=1)
    assert not rounded[torch.from_numpy(broken)].any()


@CLIPS
def test_rows_at_the_edge_of_the_ball_are_truncated_and_stay_inside(gamma: float | None) -> None:
    # Δ = 64 in 3 dimensions; rounding to nearest would leave the ball for many of these rows
    grid = IntegerGrid.for_dimension(3, clip_norm=1.0, gamma=gamma)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32) * 100)
    assert max(squares(round_rows(rows, grid))) <= grid.norm_bound**2


def test_a_typical_gradient_keeps_its_direction_and_its_length() -> None:
    grid = IntegerGrid.for_dimension(50_000, clip_norm=0.1)
    rows = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 50_000)).astype(np.float32))
    rounded = round_rows(rows.clone(), grid)
    cosine = nn.functional.cosine_similarity(rows.double(), rounded.double())
    assert float(cosine.min()) >= 0.9998
    lengths = rounded.double().norm(dim=1) / grid.norm_bound
    assert 0.999 < float(lengths.min()) <= float(lengths.max()) <= 1.0


@CLIPS
def test_torch_and_numpy_round_alike(gamma: float | None) -> None:
    grid = IntegerGrid.for_dimension(1000, clip_norm=2.0, gamma=gamma)
    rows = np.random.default_rng(2).normal(size=(20, 1000)).astype(np.float32)
    ours = round_rows(torch.from_numpy(rows.copy()), grid).numpy()
    theirs = grid.round(rows.astype(np.float64))
    # float32 against float64 before the rounding: a few coordinates sit on the fence
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 1e-3


@CLIPS
def test_a_row_does_not_depend_on_the_others(gamma: float | None) -> None:
    grid = IntegerGrid.for_dimension(100, clip_norm=1.0, gamma=gamma)
    rows = torch.from_numpy(np.random.default_rng(3).normal(size=(8, 100)).astype(np.float32))
    rows[2, 5], rows[6] = float("nan"), 1e30
    round_rows(rows, grid)


@pytest.mark.parametrize("piece", [256, 1 << 17])
def test_a_row_is_one_vector_however_its_coordinates_are_laid_out(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters large, small and out of order in memory against the same rows in one piece, by numpy."""
    monkeypatch.setattr(integer_sums, "_PIECE", piece)
    rng = np.random.default_rng(5)
    shapes = {"a": (5, 7, 3, 3), "b": (3,), "c": (40, 60), "d": (2, 3)}
    chunk = {
        name: torch.from_numpy(rng.normal(size=(6, *s)).astype(np.float32)) for name, s in shapes.items()
    }
    rows = torch.cat([g.flatten(1) for g in chunk.values()], dim=1).double().numpy()
    grid = IntegerGrid.for_dimension(rows.shape[1], clip_norm=1.0)
    expected = grid.round(rows).sum(axis=0)
    kernels_last = chunk["a"].permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    for laid_out in (chunk, {**chunk, "a": kernels_last}):
        found = integer_sum([laid_out], grid, rows.shape[1])
        assert np.abs(found - expected).max() <= 1  # float32 against float64: some sit on the fence
        assert (found != expected).mean() < 1e-2


def test_sums_that_float32_cannot_hold_are_exact_all_the_same() -> None:
    grid = IntegerGrid(clip_norm=1.0, norm_bound=1 << 22)
    rows = torch.from_numpy(np.random.default_rng(6).normal(size=(9, 3)).astype(np.float32))
    rows += 5  # so that the sums grow
    round_rows(rows, grid)


@pytest.mark.parametrize("gamma", [None, 0.01])
def test_one_record_moves_the_sum_by_its_own_integer_vector(gamma: float | None) -> None:
    grid = IntegerGrid.for_dimension(600, clip_norm=0.5, gamma=gamma)
    rows = torch.from_numpy(np.random.default_rng(4).normal(size=(10, 600)).astype(np.float32))
    chunks = [{"w": rows[:5].clone()}, {"w": rows[5:].clone()}]
    without = [{"w": rows[:5].clone()}, {"w": rows[5:9].clone()}]
    moved = integer_sum(chunks, grid, 600) - integer_sum(without, grid, 600)
    assert 0 < int((moved**2).sum()) <= grid.norm_bound**2


def test_an_empty_sample_sums_to_zero() -> None:
    assert not integer_sum([], IntegerGrid.for_dimension(7, clip_norm=1.0), 7).any()


def deep_chunk(n: int, parts: int = 47) -> dict[str, torch.Tensor]:
    """Return `n` records' gradients of so many large parameters, of norms near and beyond the clip."""
    generator = torch.Generator().manual_seed(7)
    sizes = (
        torch.randn((parts, n, 1), generator=generator).mul(4).exp()
    )  # so that the order of addition shows
    return {str(i): torch.randn((n, 1024), generator=generator) * sizes[i] for i in range(parts)}


@pytest.mark.parametrize("gamma", [None, 0.01])
def test_no_record_changes_another_s_norm_or_integers_by_a_bit_in_a_deep_network(gamma: float | None) -> None:
    size = 16
    whole = deep_chunk(size)
    length = 1024 * len(whole)
    grid = IntegerGrid.for_dimension(length, clip_norm=1.0, gamma=gamma)
    norms = integer_sums.record_norms(whole)

    def summed(rows: slice) -> np.ndarray:
        return integer_sum([{name: g[rows].clone() for name, g in whole.items()}], grid, length)

    added = 0
    for n in range(1, size + 1):
        assert torch.equal(integer_sums.record_norms({name: g[:n] for name, g in whole.items()}), norms[:n])
        added = added + summed(slice(n - 1, n))
        assert np.array_equal(summed(slice(0, n)), added)


@pytest.mark.parametrize("n", [1, 7, 16])
def test_the_sum_of_a_padded_micro_batch_is_that_of_its_records(n: int) -> None:
    whole = deep_chunk(16, parts=3)
    for gradient in whole.values():
        gradient[n:] = 0.0
    grid = IntegerGrid.for_dimension(3 * 1024, clip_norm=1.0)
    alone = integer_sum([{name: g[:n].clone() for name, g in whole.items()}], grid, 3 * 1024)
    assert np.array_equal(integer_sum([whole], grid, 3 * 1024), alone)


def test_a_clip_norm_whose_squares_float32_loses_is_refused() -> None:
    with pytest.raises(ConfigError, match="clip_norm: expected at least 1e-12"):
        integer_sum([], IntegerGrid.for_dimension(7, clip_norm=9e-13), 7)
    smallest = IntegerGrid.for_dimension(50, clip_norm=1e-12)
    for magnitude in (1e-12, 1e-16, 1e-20, 1e-24, 1e-38):
        rows = torch.from_numpy(np.random.default_rng(8).normal(size=(4, 50)).astype(np.float32)) * magnitude
        assert max(squares(round_rows(rows, smallest))) <= smallest.norm_bound**2


@pytest.mark.parametrize("entry", [float("nan"), float("inf"), 2.0**32, 2.0**63])
def test_an_entry_whose_square_overflows_is_outside(entry: float) -> None:
    assert not integer_sums._is_inside([torch.zeros(3), torch.tensor([0.0, entry])], 64)  # 2^64 wraps to 0
    assert integer_sums._is_inside([torch.zeros(3), torch.tensor([0.0, -64.0])], 64)


def test_a_record_without_numbers_spoils_no_row_that_shares_its_memory() -> None:
    grid = IntegerGrid.for_dimension(4096 + 2048, clip_norm=1.0)
    used = torch.ones(3, 4096)
    used[1, 5] = float("nan")
    chunk = {"used": used, "shared": torch.ones(2048).expand(3, 2048)}
    two = {"used": torch.ones(2, 4096), "shared": torch.ones(2, 2048)}
    assert np.array_equal(integer_sum([chunk], grid, 6144), integer_sum([two], grid, 6144))


def test_automatic_clipping_is_auto_s_at_any_length_of_the_gradient() -> None:
    """g·C/(‖g‖ + gamma) (Bu et al. 2023), on a fine grid to within a unit a coordinate."""
    clip, gamma, d = 0.5, 0.01, 2000
    grid = IntegerGrid(clip_norm=clip, norm_bound=1 << 20, gamma=gamma)
    direction = np.random.default_rng(9).normal(size=(1, d))
    direction /= np.linalg.norm(direction)
    for norm in (1e-6, 1e-3, 0.01, 0.5, 30.0, 1e6):
        row = (norm * direction).astype(np.float32)
        expected = direction[0] * clip * norm / (norm + gamma)
        for found in (round_rows(torch.from_numpy(row), grid)[0].numpy(), grid.round(row)[0]):
            assert np.abs(found / grid.scale - expected).max() <= 1.1 / grid.scale


@CLIPS
def test_a_zero_and_an_infinite_gradient_add_nothing(gamma: float | None) -> None:
    grid = IntegerGrid.for_dimension(5000, clip_norm=0.05, gamma=gamma)
    rows = torch.zeros((5, 5000))
    rows[1, 3], rows[2, 4], rows[3] = float("inf"), float("nan"), 3e38
    assert not round_rows(rows, grid).any()
    assert not grid.round(rows[:3].numpy()).any()


@pytest.mark.parametrize("gamma", [None, 0.01])
def test_the_bound_rests_on_the_integers_and_not_on_the_clip(
    gamma: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip that is three times too long: the exact test catches every row; without that test they pass."""
    grid = IntegerGrid.for_dimension(600, clip_norm=0.5, gamma=gamma)
    rows = torch.from_numpy(np.random.default_rng(10).normal(size=(6, 600)).astype(np.float32))
    honest = integer_sums.clip_factors
    monkeypatch.setattr(integer_sums, "clip_factors", lambda norms, grid: 3 * honest(norms, grid))
    assert max(squares(round_rows(rows, grid))) <= grid.norm_bound**2
    monkeypatch.setattr(integer_sums, "_outside", lambda rows, bound: [])
    assert min(squares(round_rows(rows, grid))) > 4 * grid.norm_bound**2


def test_a_gamma_that_could_make_nan_of_zeros_is_refused() -> None:
    with pytest.raises(ConfigError, match="gamma: expected at least 1e-12"):
        integer_sum([], IntegerGrid.for_dimension(7, clip_norm=1.0, gamma=1e-13), 7)


def test_sums_of_many_groups_are_exact_where_float32_would_not_hold_them_together() -> None:
    grid = IntegerGrid(clip_norm=1.0, norm_bound=1 << 21)
    rows = torch.from_numpy(np.random.default_rng(9).normal(size=(60, 3)).astype(np.float32)) * 0.01 + 5
    groups = [{"w": rows[i : i + 2].clone()} for i in range(0, 60, 2)]
    total = integer_sum(groups, grid, 3)
    assert total.max() > 1 << 25  # odd integers up there are no float32
    assert np.array_equal(total, sum(integer_sum([{"w": row[np.newaxis].clone()}], grid, 3) for row in rows))


def test_groups_that_lie_otherwise_in_memory_are_added_coordinate_by_coordinate() -> None:
    values = torch.from_numpy(np.random.default_rng(10).normal(size=(4, 8, 16, 3, 3)).astype(np.float32))
    other = values.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    grid = IntegerGrid(clip_norm=1e6, norm_bound=1 << 20)  # nothing is clipped, so nothing depends on a norm
    both = integer_sum([{"w": values.clone()}, {"w": other}, {"w": values.clone()}], grid, 8 * 16 * 9)
    assert np.array_equal(both, 3 * integer_sum([{"w": values.clone()}], grid, 8 * 16 * 9))
    assert both.any()


@pytest.mark.parametrize("gamma", [None, 1e-12])
@pytest.mark.parametrize("clip", [1e-12, 1e12, 1e300])
def test_a_row_of_zeros_takes_nothing_from_the_others_however_long_the_clip(
    clip: float, gamma: float | None
) -> None:
    grid = IntegerGrid.for_dimension(1000, clip_norm=clip, gamma=gamma)
    rows = torch.randn((65, 1000), generator=torch.Generator().manual_seed(1))
    rows[7] = 0.0
    with_zeros = integer_sum([{"w": rows.clone()}], grid, 1000)
    without = integer_sum([{"w": torch.cat([rows[:7], rows[8:]])}], grid, 1000)
    np.testing.assert_array_equal(with_zeros, without)
    assert np.abs(with_zeros).max() <= 64 * grid.norm_bound


@pytest.mark.parametrize("sizes", [[7], [3, 4], [0, 7], [7, 0], [1, 0, 5, 1], [0, 4, 0, 0, 3], [0, 0], []])
def test_rows_go_to_their_owner_through_all_micro_batches(sizes: list[int]) -> None:
    grid = IntegerGrid.for_dimension(7, clip_norm=1.0)
    padded = torch.cat([torch.eye(7), torch.zeros(2, 7)])
    chunks = ({"w": padded[start : start + 3].clone()} for start in range(0, 9, 3))
    totals = integer_sums.integer_sums(chunks, sizes, grid, 7)
    start = 0
    for size, total in zip(sizes, totals, strict=True):
        assert np.flatnonzero(total).tolist() == list(range(start, start + size))
        start += size


def test_rows_that_are_missing_are_not_taken_for_zeros() -> None:
    grid = IntegerGrid.for_dimension(3, clip_norm=1.0)
    with pytest.raises(ConfigError, match="sizes: expected 6 rows, got 4"):
        integer_sums.integer_sums([{"w": torch.ones(4, 3)}], [3, 3], grid, 3)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), max_size=6),
    chunk=st.integers(1, 8),
    norm_bound=st.sampled_from([64, 1 << 21]),  # in the plane some rows are truncated; in float32 or float64
    gamma=st.none() | st.just(0.01),
    seed=st.integers(0, 1 << 20),
)
def test_an_owner_s_sum_is_that_of_his_rows_alone_whoever_stands_beside(
    sizes: list[int], chunk: int, norm_bound: int, gamma: float | None, seed: int
) -> None:
    grid = IntegerGrid(clip_norm=1.0, norm_bound=norm_bound, gamma=gamma)
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.normal(size=(sum(sizes) + chunk, 3)).astype(np.float32))
    rows[rng.random(len(rows)) < 0.1] = float("nan")
    chunks = [{"w": part.clone()} for part in rows.split(chunk)]
    found = integer_sums.integer_sums(chunks, sizes, grid, 3)
    alone = [
        sum((integer_sum([{"w": row[np.newaxis].clone()}], grid, 3) for row in own), np.zeros(3))
        for own in rows[: sum(sizes)].split(sizes)
    ]
    assert len(found) == len(sizes)
    assert all(np.array_equal(one, other) for one, other in zip(found, alone, strict=True))
