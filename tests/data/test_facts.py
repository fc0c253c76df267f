"""The public table says of each data set what its files have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.data.facts import facts
from secure_fed_diffusion.data.published import whole
from secure_fed_diffusion.data.settings import DIRECTORY_VARIABLE, DatasetName, DataSettings
from secure_fed_diffusion.data.sources import SOURCES


@pytest.mark.parametrize("name", get_args(DatasetName))
def test_the_facts_of_a_data_set_are_those_of_its_files(name: DatasetName) -> None:
    if not whole(SOURCES[name], Path(os.environ.get(DIRECTORY_VARIABLE, "nowhere"))):
        pytest.skip(f"{DIRECTORY_VARIABLE} names no folder with the files of {name}")
    dataset, known = load(DataSettings(name=name)), facts(name)
    assert (known.name, known.class_names, known.image_shape) == (
        dataset.name,
        dataset.class_names,
        dataset.image_shape,
    )
    assert known.n_classes == dataset.n_classes > dataset.train.labels.max()
