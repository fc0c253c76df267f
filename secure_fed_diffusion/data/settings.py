"""Which data set a run trains on, and how it is dealt out to the clients.

>>> DataSettings(name="digits", beta=0.5).partition
'dirichlet'
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Literal, get_args

from secure_fed_diffusion.errors import ConfigError

DatasetName = Literal[
    "digits",
    "mnist",
    "fashion_mnist",
    "pneumonia",
    "cifar10",
    "svhn",
    "pneumoniamnist",
    "pneumoniamnist_64",
    "bloodmnist",
    "bloodmnist_64",
    "dermamnist",
    "dermamnist_64",
    "pathmnist",
    "pathmnist_64",
]
PartitionScheme = Literal["dirichlet", "iid", "classes_per_client"]
DIRECTORY_VARIABLE = "SFD_DATA_DIR"
"""Environment variable that names the folder with the data files."""

_MIN_BETA = 1e-3  # below it every class goes whole to one client, and the draw loses its precision


def require_one_of(value: str, allowed: tuple[str, ...], *, key: str) -> None:
    """Refuse a `value` outside `allowed`, naming the nearest one inside it."""
    if value in allowed:
        return
    near = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"expected one of {', '.join(allowed)}, got {value!r}{hint}", key=key)


def require_beta(value: float, *, key: str) -> None:
    """Refuse a Dirichlet concentration that is no finite number of at least 0.001."""
    if not (math.isfinite(value) and value >= _MIN_BETA):
        raise ConfigError(f"expected a finite number >= {_MIN_BETA}, got {value}", key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """The data set and its partition; `seed` drives the partition alone, never a private draw.

    `directory` holds the data files (None: the folder named by `SFD_DATA_DIR`; digits need none).
    `beta` is the concentration of the `dirichlet` scheme (small: skewed), `classes_per_client`
    belongs to the scheme of that name.  `train_limit` keeps only the first N private images.
    """

    name: DatasetName = "digits"
    directory: str | None = None
    partition: PartitionScheme = "dirichlet"
    beta: float = 0.5
    classes_per_client: int = 2
    seed: int = 0
    train_limit: int | None = None

    def __post_init__(self) -> None:
        require_one_of(self.name, get_args(DatasetName), key="data.name")
        require_one_of(self.partition, get_args(PartitionScheme), key="data.partition")
        require_beta(self.beta, key="data.beta")
        if self.classes_per_client < 1:
            raise ConfigError(
                f"expected at least 1, got {self.classes_per_client}", key="data.classes_per_client"
            )
        if self.seed < 0:
            raise ConfigError(f"expected a number >= 0, got {self.seed}", key="data.seed")
        if self.train_limit is not None and self.train_limit < 1:
            raise ConfigError(f"expected at least 1, got {self.train_limit}", key="data.train_limit")
