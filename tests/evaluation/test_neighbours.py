"""Precision, recall, density and coverage against loops over their definitions, and where they are known."""

from __future__ import annotations

import numpy as np
import pytest

from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.evaluation import neighbours
from secure_fed_diffusion.evaluation.neighbours import NeighbourReference, squared_radii


def by_loops(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """The definitions as `prdc` has them, one pair after another."""

    def radius(points: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(points[i] - other) for j, other in enumerate(points) if j != i)[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    fake_radii = [radius(fake, j) for j in range(len(fake))]
    distance = [[float(np.linalg.norm(x - y)) for y in fake] for x in real]
    n, m = range(len(real)), range(len(fake))
    return {
        "precision": np.mean([any(distance[i][j] < real_radii[i] for i in n) for j in m]),
        "recall": np.mean([any(distance[i][j] < fake_radii[j] for j in m) for i in n]),
        "density": sum(distance[i][j] < real_radii[i] for i in n for j in m) / (k * len(fake)),
        "coverage": np.mean([min(distance[i]) < real_radii[i] for i in n]),
    }


@pytest.mark.parametrize(("n", "m", "k"), [(40, 30, 5), (25, 60, 3), (30, 30, 1)])
def test_they_are_what_loops_over_the_definition_give(monkeypatch, n, m, k):
    monkeypatch.setattr(neighbours, "_BLOCK_ROWS", 7)
    rng = np.random.default_rng(n)
    real, fake = rng.standard_normal((n, 4)), rng.normal(0.7, 0.8, (m, 4))
    found = NeighbourReference(real, precision_k=k, density_k=k).figures(fake)
    expected = by_loops(real, fake, k)
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 < expected["precision"] < 1
    assert 0 < expected["coverage"] < 1


def test_by_default_three_neighbours_make_precision_and_recall_and_five_the_others():
    rng = np.random.default_rng(3)
    real, fake = rng.standard_normal((50, 3)), rng.normal(0.5, 1, (40, 3))
    three, five = by_loops(real, fake, 3), by_loops(real, fake, 5)
    expected = {name: three[name] for name in ("precision", "recall")}
    expected |= {name: five[name] for name in ("density", "coverage")}
    assert NeighbourReference(real).figures(fake) == pytest.approx(expected, abs=1e-12)
    assert three != five


def test_a_model_that_draws_one_real_image_only_looks_real_and_covers_nothing():
    real = np.random.default_rng(0).standard_normal((300, 4))
    fake = real[:1] + 1e-6 * np.random.default_rng(1).standard_normal((200, 4))
    found = NeighbourReference(real).figures(fake)
    assert found["precision"] == 1
    assert found["recall"] < 0.01
    assert found["coverage"] < 0.1


def test_a_set_far_away_has_nothing_and_a_wide_one_reaches_the_real_images_unlikely_as_it_is():
    rng = np.random.default_rng(0)
    real = rng.standard_normal((200, 8))
    far = NeighbourReference(real).figures(rng.normal(50, 1, (200, 8)))
    assert far == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}
    wide = NeighbourReference(real).figures(rng.normal(0, 4, (200, 8)))
    assert wide["recall"] > 0.9
    assert wide["precision"] < 0.2


def test_samples_of_the_same_law_have_the_coverage_that_counting_gives():
    # Naeem et al. 2020, section 3.2.3: E[coverage] = 1 − Π_{i<k} (n − 1 − i) / (2n − 1 − i) for equal numbers
    n, k = 200, 5
    expected = 1 - np.prod([(n - 1 - i) / (2 * n - 1 - i) for i in range(k)])
    found, density = [], []
    for seed in range(60):
        real, fake = np.random.default_rng(seed).standard_normal((2, n, 6))
        figures = NeighbourReference(real).figures(fake)
        found.append(figures["coverage"])
        density.append(figures["density"])
    # five standard errors each: wrong once in a million
    assert abs(np.mean(found) - expected) < 5 * np.std(found) / np.sqrt(60)
    # each ball holds k of the n other points, so k/n of the mass: a fresh point lies in k of them on average
    assert abs(np.mean(density) - 1) < 5 * np.std(density) / np.sqrt(60)


def test_an_image_is_not_its_own_neighbour_even_beside_copies():
    points = np.array([[0.0], [0.0], [3.0], [7.0]])
    np.testing.assert_allclose(squared_radii(points, 2), [[0, 9], [0, 9], [9, 9], [16, 49]])


def test_too_few_images_are_refused():
    real = np.random.default_rng(0).standard_normal((5, 2))
    with pytest.raises(DataError, match="more than 5 images to find 5 neighbours of each, got 5"):
        NeighbourReference(real)
    with pytest.raises(DataError, match="more than 3 images"):
        NeighbourReference(np.random.default_rng(0).standard_normal((9, 2))).figures(real[:3])
