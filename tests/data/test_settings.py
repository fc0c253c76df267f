from __future__ import annotations

import subprocess
import sys

import pytest

from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.errors import ConfigError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "fashion-mnist"}, "data.name: .*did you mean 'fashion_mnist'"),
        ({"name": "imagenet"}, "data.name: expected one of digits, mnist, fashion_mnist, pneumonia"),
        ({"partition": "idd"}, "data.partition: .*did you mean 'iid'"),
        ({"beta": -1.0}, "data.beta: expected a finite number >= 0.001, got -1.0"),
        ({"classes_per_client": 0}, "data.classes_per_client: expected at least 1"),
        ({"seed": -1}, "data.seed: expected a number >= 0"),
        ({"train_limit": 0}, "data.train_limit: expected at least 1"),
    ],
)
def test_a_bad_value_is_refused_with_its_key(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        DataSettings(**change)
    assert caught.value.key == f"data.{next(iter(change))}"


def test_settings_of_data_and_evaluation_import_without_torch():
    code = (
        "import sys; import secure_fed_diffusion.data.settings, secure_fed_diffusion.evaluation.settings;"
        "raise SystemExit('torch' in sys.modules or 'sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
