"""The scikit-learn app's own part: a multinomial logistic regression, trained and tested."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.client import NumPyClient
from flwr.common import ndarrays_to_parameters
from flwr.server.strategy import FedAvg
from sklearn.linear_model import LogisticRegression

from experiments.flower_secagg import digits


def model(arrays: list[np.ndarray]) -> LogisticRegression:
    """Return the classifier with these coefficients and intercepts."""
    classifier = LogisticRegression(max_iter=10, warm_start=True)
    classifier.classes_ = np.arange(10)
    classifier.coef_, classifier.intercept_ = (array.astype(np.float64) for array in arrays)
    return classifier


class Hospital(NumPyClient):
    """A node: its part of the digits."""

    def __init__(self, index: int) -> None:
        self._index = index

    def fit(self, parameters: list[np.ndarray], config: dict[str, Any]) -> tuple[list[np.ndarray], int, dict]:
        """Train from the global model."""
        x, y = digits.part(self._index)
        trained = model(parameters).fit(x, y)
        return [trained.coef_, trained.intercept_], len(x), {}


def strategy() -> FedAvg:
    """Return FedAvg over all nodes, tested at the server after each round."""

    def evaluate(server_round: int, arrays: list[np.ndarray], config: dict[str, Any]) -> tuple[float, dict]:
        accuracy = float(model(arrays).score(*digits.test_set()))
        digits.keep(server_round, arrays, accuracy)
        return 1 - accuracy, {"accuracy": accuracy}

    return FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=digits.N_NODES,
        min_available_clients=digits.N_NODES,
        initial_parameters=ndarrays_to_parameters([np.zeros((10, 64)), np.zeros(10)]),
        evaluate_fn=evaluate,
    )
