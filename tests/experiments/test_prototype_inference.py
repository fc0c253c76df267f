import json
import sys
import tomllib
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments.prototype_inference import figure, masked, run, table
from experiments.prototype_inference.federated import Recipe
from experiments.results import into_readme
from secure_fed_diffusion.data.datasets import load
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
    monkeypatch.setattr(run, "compute", lambda cell, out: pytest.fail("computed again"))
    assert run.measured(CELL, tmp_path) == record
    assert replace(CELL, seed=1).name != CELL.name


def test_a_further_comparison_takes_the_trained_weights(tmp_path, monkeypatch):
    record = run.measured(CELL, tmp_path)
    monkeypatch.setattr(run, "train", lambda *_, **__: pytest.fail("trained again"))
    further = run.measured(replace(CELL, epsilons=(10.0, 4.0)), tmp_path)
    assert "accuracy_prototypes_epsilon_4" in further
    for key in ("accuracy_head", "accuracy_prototypes"):  # prototypes are rounded at random on the grid
        assert further[key] == pytest.approx(record[key], abs=0.01)
    hospitals = [load(CELL.data).train.subset(np.arange(i, 200, 4)) for i in range(4)]
    other = replace(CELL, recipe=replace(CELL.recipe, prox_mu=0.1))
    assert other.weights(hospitals) != CELL.weights(hospitals)
    assert CELL.weights(hospitals[::-1]) != CELL.weights(hospitals)  # also if the dealing's code has changed


def records(method, gain, *, data="digits", heterogeneity="even", **more):
    """Records of three seeds; with 0.001 between them half of the interval is 0.25 points."""
    return [
        {
            "data": data,
            "heterogeneity": heterogeneity,
            "method": method,
            "delta": 1e-5,
            "unit": "example",
            "view": "sum_c1",
            "accuracy_head": 0.8,
            "accuracy_prototypes": 0.8 + gain + noise,
            "bytes_model_all_rounds": 1_234_567,
            "bytes_prototypes_up": 100,
            "bytes_prototypes_down": 200,
            **more,
        }
        for noise in (-0.001, 0.0, 0.001)
    ]


def origin(command):
    return {"command": command, "commit": "c", "machine": "m"}


def test_the_figure_counts_only_gains_whose_interval_clears_the_point(tmp_path):
    found = records("fedavg", 0.02) + records("fedprox", 0.011)
    assert "in 1 of 2 settings" in figure.finding(found)
    assert "in 0 of 1 settings" in figure.finding(found[:1])  # one seed has no interval
    (tmp_path / "results.json").write_text(json.dumps({"records": found}))
    assert figure.draw(tmp_path / "results.json", tmp_path / "figure.png").stat().st_size > 10_000


def test_the_title_lies_within_the_figure_even_of_one_data_set():
    drawn = figure.compose(records("fedavg", 0.02) + records("fedprox", 0.011))
    FigureCanvasAgg(drawn).draw()
    (title,) = drawn.texts
    box = title.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= drawn.bbox.width
    assert 0 <= box.y0 < box.y1 <= drawn.bbox.height


def test_new_records_replace_those_of_their_setting_and_leave_the_others():
    digits, mnist = records("fedavg", 0.02), records("fedavg", 0.0, data="mnist")
    first = run.merged({}, origin("first"), digits)
    both = run.merged(first, origin("second"), mnist)
    assert both["records"] == digits + mnist
    assert both["origins"] == {"digits": {"even": origin("first")}, "mnist": {"even": origin("second")}}
    better = records("fedprox", 0.03)
    again = run.merged(both, origin("third"), better)
    assert again["records"] == better + mnist
    assert again["origins"] == {"digits": {"even": origin("third")}, "mnist": {"even": origin("second")}}
    skewed = records("fedavg", 0.01, heterogeneity="Dirichlet 5")
    more = run.merged(again, origin("fourth"), skewed)
    assert more["records"] == better + mnist + skewed
    assert more["origins"]["digits"] == {"even": origin("third"), "Dirichlet 5": origin("fourth")}


class AtOnce:
    """A pool that computes nothing: each cell has one record."""

    def __init__(self, workers):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, _, grid, folders):
        return [records(c.method, 0.0, data=c.data.name, heterogeneity=c.heterogeneity)[1] for c in grid]


def called(monkeypatch, results, *words):
    monkeypatch.setattr(run, "worker_pool", AtOnce)
    line = ["run.py", *words, "--out", str(results.parent / "cells"), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", line)
    run.main()
    return json.loads(results.read_text())


def test_a_call_for_one_data_set_keeps_the_others_in_the_file(tmp_path, monkeypatch):
    results = tmp_path / "results.json"
    kept = run.merged({}, origin("before"), records("fedavg", 0.0, data="mnist"))
    results.write_text(json.dumps(kept))
    found = called(monkeypatch, results, "--set", "digits")
    assert [r["data"] for r in found["records"]] == 3 * ["mnist"] + 50 * ["digits"]
    assert found["origins"]["mnist"] == {"even": origin("before")}
    command = found["origins"]["digits"]["even"]["command"]
    assert command.endswith("--set digits --out cells --results results.json")


def test_a_call_for_one_way_to_deal_labels_keeps_the_others_in_the_file(tmp_path, monkeypatch):
    results = tmp_path / "results.json"
    called(monkeypatch, results, "--set", "digits")
    found = called(monkeypatch, results, "--labels", "2 classes a client")
    assert len(found["records"]) == 50 + 2 * 10
    commands = [facts["command"] for facts in found["origins"]["digits"].values()]
    assert sum("--labels '2 classes a client'" in command for command in commands) == 1
    assert found["origins"]["mnist"].keys() == {"2 classes a client"}


def test_an_unknown_data_set_or_way_is_named_with_the_known_ones(tmp_path, monkeypatch, capsys):
    for words, expected in (
        (("--set", "dogs"), "one of digits, mnist"),
        (("--labels", "odd"), "Dirichlet 5"),
    ):
        with pytest.raises(SystemExit):
            called(monkeypatch, tmp_path / "results.json", *words)
        assert expected in capsys.readouterr().err


def test_a_way_to_deal_labels_may_have_a_step_size_of_its_own():
    settings = tomllib.loads((run.HERE / "grid.toml").read_text(encoding="utf-8"))
    grid = run.cells(settings, ["digits", "mnist"], ["2 classes a client", "even"], {})
    rates = {(cell.data.name, cell.heterogeneity): cell.recipe.learning_rate for cell in grid}
    assert rates.pop(("mnist", "2 classes a client")) == 0.02
    assert set(rates.values()) == {0.05}
    assert {cell.recipe.momentum for cell in grid} == {0.9}


def test_the_table_has_a_row_a_setting_and_says_where_the_point_is_reached():
    noisy = {"accuracy_prototypes_epsilon_1": 0.78, "accuracy_prototypes_epsilon_10": 0.81}
    found = records("fedavg", 0.02, **noisy) + records("fedprox", -0.01, **noisy)
    found += records("fedavg", 0.011, heterogeneity="Dirichlet 5", **noisy)
    found += records("fedprox", 0.005, heterogeneity="Dirichlet 5", **noisy)
    found += records("fedavg", 0.02, data="mnist", **noisy, accuracy_prototypes_synthetic=0.83)
    origins = {"digits": {"even": origin("d"), "Dirichlet 5": origin("e")}, "mnist": {"even": origin("m")}}
    text = table.markdown({"origins": origins, "records": found})
    assert (
        '**scikit-learn digits.** "At least one point" holds in 1 of 4 settings (even: FedAvg +2.0); '
        "prototypes lose to the head in 1 (even: FedProx -1.0); "
        "the gain is below a point, not below zero, in 1 (Dirichlet 5: FedProx +0.5); "
        "the interval leaves it open in 1 (Dirichlet 5: FedAvg +1.1); "
        "the release at ε = 1 moves the gain by -2.8 points in the median setting, by -4.0 at the most "
        "(even, FedAvg). `d` at commit c, m; Dirichlet 5: `e` at commit c, m."
    ) in text
    assert '**MNIST.** "At least one point" holds in 1 of 1 settings (even: FedAvg +2.0)' in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5
    assert rows[2] == (
        "| scikit-learn digits | even | FedAvg | 80.0 % | 82.0 % | +2.0 ± 0.2 | -2.0 ± 0.0 | +1.0 ± 0.0 | – "
        "| 1,234,567 | 100 + 200 |"
    )
    assert (
        "| MNIST | even | FedAvg | 80.0 % | 82.0 % | +2.0 ± 0.2 | -2.0 ± 0.0 | +1.0 ± 0.0 | +3.0 ± 0.0 |"
        in text
    )
    assert "δ = 1e-5, unit example, view sum_c1" in text
    assert "Synthetic: prototypes of images" in text


def test_the_readme_holds_the_table_of_the_committed_results(tmp_path):
    text, copy = (run.HERE / "README.md").read_text(encoding="utf-8"), tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    results = json.loads((run.HERE / "results.json").read_text(encoding="utf-8"))
    into_readme(copy, "results", table.markdown(results))
    assert copy.read_text(encoding="utf-8") == text
