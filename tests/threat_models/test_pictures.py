"""Every figure is drawn from what its measurement looks like, and epsilon in it is the accountant's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from secure_fed_diffusion.dp.accounting import epsilon
from secure_fed_diffusion.dp.mechanism import Mechanism, View
from threat_models import pictures
from threat_models.staging import picture_data

IMAGE = np.linspace(0.0, 1.0, 64).reshape(8, 8).tolist()


def _cell(name: str, psnr_db: float) -> dict[str, object]:
    return {"name": name, "psnr_db": psnr_db, "image": IMAGE}


MEASURED = {
    "inversion": {
        "delta": 1e-5,
        "rows": [
            {
                "network": "An MLP: it is computed",
                "truth": IMAGE,
                "cells": [_cell("no", 99.0), _cell("ε", 4.0)],
            }
        ],
    },
    "imprint": {"truth": [IMAGE] * 40, "alone": [_cell("", 50.0)] * 40, "noised": [None] * 40},
    "membership": {
        "delta": 1e-5,
        "view": "released model",
        "unit": "one image",
        "curves": [
            {
                "name": "no noise",
                "epsilon": None,
                "auc": [1.0],
                "members": [[2.0, 3.0]],
                "others": [[0.0, 1.0]],
            },
            {"name": "ε = 1", "epsilon": 1.0, "auc": [0.5], "members": [[0.0, 3.0]], "others": [[0.0, 3.0]]},
        ],
    },
    "poisoning": {"nobody lies": {"fid": [9.0, 8.0], "prototype_accuracy": [0.9, 0.8]}},
}


@pytest.mark.parametrize("name", sorted(pictures.FIGURES))
def test_a_figure_is_drawn_from_its_measurement_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.json").write_text(json.dumps(MEASURED[name]), encoding="utf-8")
    (drawn,) = pictures.draw(tmp_path)
    assert drawn.name == f"{name}.png"
    assert drawn.read_bytes()[:4] == b"\x89PNG"


def test_a_figure_without_a_measurement_is_left_out(tmp_path: Path) -> None:
    assert pictures.draw(tmp_path) == []


@pytest.mark.parametrize("name", sorted(pictures.FIGURES))
def test_every_committed_figure_has_its_measurement_beside_it(name: str) -> None:
    assert (pictures.DIRECTORY / f"{name}.png").exists() == (pictures.DIRECTORY / f"{name}.json").exists()


@pytest.mark.parametrize(("multiplier", "steps"), [(1.0, 1), (3.0, 20)])
def test_the_closed_form_agrees_with_the_package_s_accountant(multiplier: float, steps: int) -> None:
    gaussian = Mechanism(
        kind="central", unit="example", relation="add_remove", sampling_rate=1.0, sensitivity=1.0,
        share_stddev=0.0, server_stddev=multiplier, min_survivors=1, integer=False, dimension=1,
    )  # fmt: skip
    accounted = epsilon({gaussian: steps}, delta=picture_data.DELTA, view=View(name="released_model"))
    assert picture_data.gaussian_epsilon(multiplier, steps=steps) == pytest.approx(accounted, rel=5e-3)
    found = picture_data.noise_for(accounted, steps=steps)
    assert found == pytest.approx(multiplier, rel=5e-3)
