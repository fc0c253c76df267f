"""The torch app's own part: a small network, trained and tested; nothing about Flower's transport."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp.strategy import FedAvg

from experiments.flower_secagg import digits


def fresh() -> torch.nn.Module:
    """Return the network that all start from."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))


def loaded(arrays: ArrayRecord) -> torch.nn.Module:
    """Return the network with these arrays."""
    network = fresh()
    network.load_state_dict(arrays.to_torch_state_dict())
    return network


def train(network: torch.nn.Module, index: int) -> int:
    """Train for two epochs on node `index`'s part; return its number of examples."""
    torch.set_num_threads(1)
    x, y = (torch.from_numpy(array) for array in digits.part(index))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        for start in range(0, len(x), 20):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(
                network(x[start : start + 20]), y[start : start + 20]
            ).backward()
            optimiser.step()
    return len(x)


def test(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Test the global network and keep it."""
    x, y = digits.test_set()
    with torch.no_grad():
        guessed = loaded(arrays)(torch.from_numpy(x)).argmax(1).numpy()
    accuracy = float(np.mean(guessed == y))
    digits.keep(server_round, [array.numpy() for array in arrays.values()], accuracy)
    return MetricRecord({"accuracy": accuracy})


def strategy() -> FedAvg:
    """Return FedAvg over all nodes."""
    return FedAvg(fraction_evaluate=0.0, min_train_nodes=digits.N_NODES, min_available_nodes=digits.N_NODES)
