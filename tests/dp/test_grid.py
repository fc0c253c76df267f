from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secure_fed_diffusion.dp import IntegerGrid
from secure_fed_diffusion.errors import ConfigError

_ANY_FLOATS = st.one_of(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.floats(width=64)),
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.floats(width=32)),
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 4), st.integers(1, 40)),
        elements=st.sampled_from([0.0, 5e-324, -5e-324, 2.2e-308, 1e154, -1e300, 1.797e308, 0.5, -1.0]),
    ),
)


def squared_norms(rows: npt.NDArray[np.int64]) -> list[int]:
    return [sum(int(value) ** 2 for value in row) for row in rows]


@given(
    vectors=_ANY_FLOATS,
    clip_norm=st.floats(min_value=1e-300, max_value=1e300),
    norm_bound=st.sampled_from([1, 2, 3, 16, 33, 128, 8192, 1 << 24]),
)
@settings(max_examples=300, deadline=None)
def test_no_float_leaves_the_integer_ball(
    vectors: npt.NDArray[np.floating], clip_norm: float, norm_bound: int
) -> None:
    rounded = IntegerGrid(clip_norm=clip_norm, norm_bound=norm_bound).round(vectors)
    assert rounded.dtype == np.int64
    assert max(squared_norms(rounded)) <= norm_bound**2
    finite = np.isfinite(vectors).all(axis=1)
    assert not rounded[~finite].any()


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_halves_on_the_sphere_do_not_leave_it_either(seed: int, dimension: int) -> None:
    # Coordinates near k + ½ just at the clip are where rounding to nearest inflates the norm most.
    grid = IntegerGrid.for_dimension(dimension, clip_norm=1.0)
    halves = np.random.default_rng(seed).integers(0, 3, size=(3, dimension)) + 0.5000001
    vectors = halves * (grid.norm_bound / np.linalg.norm(halves, axis=1, keepdims=True)).round()
    assert max(squared_norms(grid.round(vectors / grid.scale))) <= grid.norm_bound**2


def test_rounding_to_nearest_alone_would_leave_it() -> None:
    grid = IntegerGrid(clip_norm=1.0, norm_bound=32)
    vector = np.array([[0.6, 0.8]])
    assert squared_norms(np.rint(vector * grid.scale).astype(np.int64)) > [32**2]
    assert squared_norms(grid.round(vector)) <= [32**2]


@pytest.mark.parametrize(
    ("dimension", "norm_bound"), [(160_000, 2**13), (35_000_000, 2**17), (1, 16), (2, 32), (4, 32)]
)
def test_the_norm_bound_grows_with_the_root_of_the_dimension(dimension: int, norm_bound: int) -> None:
    assert IntegerGrid.for_dimension(dimension, 1.0).norm_bound == norm_bound


def test_a_typical_vector_keeps_its_direction_and_its_length() -> None:
    vectors = np.random.default_rng(7).standard_normal((3, 160_000))
    grid = IntegerGrid.for_dimension(160_000, clip_norm=1.0)
    kept = grid.to_float(grid.round(vectors))
    cosine = (kept * vectors).sum(1) / np.linalg.norm(kept, axis=1) / np.linalg.norm(vectors, axis=1)
    assert cosine.min() >= 0.9999
    assert np.linalg.norm(kept, axis=1) == pytest.approx(np.ones(3), rel=1e-3)


def test_a_short_vector_is_scaled_not_clipped() -> None:
    grid = IntegerGrid(clip_norm=1.0, norm_bound=8192)
    vector = np.array([[0.03, -0.04]])
    assert grid.round(vector).tolist() == np.rint(vector * grid.scale).astype(int).tolist()


def test_a_row_depends_on_no_other_row() -> None:
    vectors = np.random.default_rng(3).standard_normal((6, 50)).astype(np.float32)
    grid = IntegerGrid.for_dimension(50, clip_norm=2.0)
    together = grid.round(vectors)
    alone = np.concatenate([grid.round(vectors[i : i + 1]) for i in range(6)])
    assert np.array_equal(together, alone)
    vectors[2] = np.nan
    assert np.array_equal(np.delete(grid.round(vectors), 2, axis=0), np.delete(together, 2, axis=0))


def test_the_vectors_handed_in_are_left_alone() -> None:
    vectors = np.full((2, 3), 9.0)
    IntegerGrid.for_dimension(3, clip_norm=1.0).round(vectors)
    assert (vectors == 9.0).all()


def test_no_rows_give_no_rows() -> None:
    assert IntegerGrid.for_dimension(3, 1.0).round(np.empty((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"clip_norm": 0.0, "norm_bound": 16},
        {"clip_norm": float("nan"), "norm_bound": 16},
        {"clip_norm": 1.0, "norm_bound": 0},
        {"clip_norm": 1.0, "norm_bound": 2**24 + 1},
    ],
)
def test_a_grid_that_proves_nothing_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        IntegerGrid(**fields)  # type: ignore[arg-type]
