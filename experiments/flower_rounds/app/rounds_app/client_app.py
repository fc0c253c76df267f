"""The client: a NumPyClient, a stopwatch outside everything, and the mod that a message calls for.

What a variant needs is imported when its first message comes, so each pays for its own and no other's.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.client import Client, NumPyClient
from flwr.clientapp import ClientApp

from rounds_app import task

LOADED = time.time()
SPENT: dict[str, float] = {}


def started() -> float:
    """Return when this process began, in seconds since the epoch (Linux), else when it loaded this file."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return LOADED


class Perceptron(NumPyClient):
    """Trains on this node's part of the digits."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def fit(self, parameters: list[np.ndarray], config: dict) -> tuple[list[np.ndarray], int, dict]:
        """Train for as long as the workload says."""
        begun = time.perf_counter()
        with np.load(self._data) as held:
            new = task.train(parameters, held["x"], held["y"], float(config["seconds"]))
            n_examples = len(held["x"])
        SPENT["compute"] = time.perf_counter() - begun
        return new, n_examples, {}


def stopwatch(message: Message, context: Context, call_next) -> Message:
    """Write down when this process began, when the message came in and went out, and what training took."""
    entered = time.time()
    reply = call_next(message, context)
    line = {
        "message": message.metadata.message_id,
        "node": int(context.node_config["partition-id"]),
        "started": started(),
        "entered": entered,
        "left": time.time(),
        "compute": SPENT.get("compute", 0.0),
        "error": reply.error.reason if reply.has_error() else "",
    }
    with Path(str(context.node_config["log"])).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return reply


def by_variant(message: Message, context: Context, call_next) -> Message:
    """Apply the mod of the protocol that the message speaks; none for plain training."""
    records = message.content.config_records
    if "secaggplus_configs" in records:
        from flwr.client.mod import secaggplus_mod

        return secaggplus_mod(message, context, call_next)
    if "secure_aggregation" in records:
        from secure_fed_diffusion.flower_mod import identity_from_node_config, secure_aggregation_mod
        from secure_fed_diffusion.secagg import Policy

        mod = secure_aggregation_mod(
            identity=identity_from_node_config,
            policy=Policy(),  # both profiles are measured here; without a policy an identity means `active`
            state_dir=str(context.node_config["state"]),
        )
        return mod(message, context, call_next)
    return call_next(message, context)


def client_fn(context: Context) -> Client:
    """Make this node's client."""
    return Perceptron(Path(str(context.node_config["data"]))).to_client()


app = ClientApp(client_fn, mods=[stopwatch, by_variant])
