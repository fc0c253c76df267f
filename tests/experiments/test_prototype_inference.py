import json
from dataclasses import replace

import numpy as np
import pytest

from experiments.prototype_inference import figure, masked, run
from experiments.prototype_inference.federated import Recipe
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.dp.accounting import epsilon
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.dp.mechanism import Mechanism, View
from secure_fed_diffusion.evaluation.prototypes import class_prototypes

N_CLASSES, D = 3, 4
CELL = run.Cell(
    data=DataSettings(name="digits", train_limit=200, partition="iid"),
    heterogeneity="even",
    clients=4,
    method="fedavg",
    recipe=Recipe(rounds=1, local_epochs=1, batch=32, learning_rate=0.05, momentum=0.9, embedding=8),
    seed=0,
    epsilons=(10.0,),
    delta=1e-5,
    colluders=1,
    synthetic=None,
)


@pytest.fixture
def held():
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, 2, size) for size in (5, 9, 7)]  # nobody holds class 2
    return [rng.normal(size=(len(part), D)) for part in labels], labels


def test_the_masked_prototypes_are_the_class_means_of_all_records_together(held):
    features, labels = held
    found = masked.exact(features, labels, N_CLASSES).prototypes
    expected = class_prototypes(np.concatenate(features), np.concatenate(labels), N_CLASSES)
    assert np.isnan(found[2]).all()
    # each client's sum is rounded to 2^-fraction_bits, at random: three of them over a count of at least one
    assert np.abs(found[:2] - expected[:2]).max() < 1e-4


def test_the_honest_clients_noise_alone_pays_for_the_release():
    norm_bound, n, colluders, length = 64, 5, 2, 15
    share = masked.share_stddev(norm_bound, n, colluders, length, 2.0, 1e-5)
    mechanism = Mechanism(
        kind="shares",
        unit="example",
        relation="add_remove",
        sampling_rate=1.0,
        sensitivity=float(norm_bound),
        share_stddev=share,
        server_stddev=0.0,
        min_survivors=n,
        integer=True,
        dimension=length,
    )
    spent = epsilon({mechanism: 1}, delta=1e-5, view=View(name="sum", colluders=colluders), accountant="pld")
    assert 1.9 < spent <= 2.0


def test_one_record_moves_a_clients_vector_by_no_more_than_the_grids_bound(held):
    features, labels = held
    grid = IntegerGrid.for_dimension(N_CLASSES * (D + 1), 0.7)
    for gone in range(len(labels[0])):
        whole = masked._rounded_sum(features[0], labels[0], N_CLASSES, grid)
        rest = np.delete(np.arange(len(labels[0])), gone)
        moved = whole - masked._rounded_sum(features[0][rest], labels[0][rest], N_CLASSES, grid)
        assert 0 < int((moved**2).sum()) <= grid.norm_bound**2


def test_noisy_prototypes_come_near_the_exact_ones_where_there_are_many_records():
    rng = np.random.default_rng(1)
    labels = [rng.integers(0, N_CLASSES, 2000) for _ in range(3)]
    features = [np.abs(rng.normal(size=(2000, D))) + part[:, None] for part in labels]
    clip_norm = 1.01 * max(np.linalg.norm(part, axis=1).max() for part in features) / np.sqrt(1 - 1 / 16)
    noisy = masked.private(
        features, labels, N_CLASSES, clip_norm=float(clip_norm), epsilon=10.0, delta=1e-5, colluders=0
    )
    # noise of about half a clip norm a coordinate, over 2,000 records a class: ten standard deviations away
    assert np.abs(noisy.prototypes - masked.exact(features, labels, N_CLASSES).prototypes).max() < 0.05


def test_a_cell_is_computed_once_and_its_record_names_what_it_is(tmp_path, monkeypatch):
    record = run.measured(CELL, tmp_path)
    assert {"accuracy_head", "accuracy_prototypes", "accuracy_prototypes_epsilon_10"} < set(record)
    assert record["bytes_prototypes_up"] > 8 * 10 * 9 * 48 // 64
    monkeypatch.setattr(run, "compute", lambda cell: pytest.fail("computed again"))
    assert run.measured(CELL, tmp_path) == record
    assert replace(CELL, seed=1).name != CELL.name


def test_the_figure_counts_only_gains_whose_interval_clears_the_point(tmp_path):
    def records(method, gain):
        return [
            {
                "data": "digits",
                "heterogeneity": "even",
                "method": method,
                "accuracy_head": 0.8,
                "accuracy_prototypes": 0.8 + gain + noise,
            }
            for noise in (-0.001, 0.0, 0.001)
        ]

    found = records("fedavg", 0.02) + records("fedprox", 0.011)
    assert "in 1 of 2 settings" in figure.finding(found)
    (tmp_path / "results.json").write_text(json.dumps({"records": found}))
    assert figure.draw(tmp_path / "results.json", tmp_path / "figure.png").stat().st_size > 10_000
