"""One table of names: what is a metric, what is its floor, and what is neither."""

from __future__ import annotations

import subprocess
import sys

import pytest

from secure_fed_diffusion.evaluation import names

METRICS = (
    "fid_lenet84_mnist",
    "kid_inception",
    "precision_a",
    "recall_a",
    "density_a",
    "coverage_a",
    "tstr_logreg",
    "prototype_accuracy",
    "class_means_accuracy",
)


@pytest.mark.parametrize("key", METRICS)
def test_a_metric_is_one_and_its_floor_and_interval_are_none(key):
    assert names.is_metric(key)
    assert not names.is_metric(names.floor_key(key))
    assert not names.is_metric(names.interval_key(key))
    assert names.name(key) != key
    assert len({names.name(key), names.name(names.floor_key(key))}) == 2


@pytest.mark.parametrize("key", ["round", "holdout_loss", "fid", "precision_", "seconds", "density"])
def test_other_keys_are_no_metrics_and_keep_their_name(key):
    assert not names.is_metric(key)
    assert names.name(key) == key


def test_the_floor_of_fid_keeps_the_name_that_it_always_had():
    assert names.floor_key("fid_lenet84_mnist") == "fid_floor_lenet84_mnist"


def test_accuracies_and_distances_are_told_apart():
    assert [key for key in METRICS if names.is_accuracy(key)] == [
        "tstr_logreg",
        "prototype_accuracy",
        "class_means_accuracy",
    ]
    assert [key for key in METRICS if names.is_distance(key)] == ["fid_lenet84_mnist", "kid_inception"]


def test_who_only_reads_names_loads_no_torch():
    code = "import sys, secure_fed_diffusion.evaluation.names; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
