"""The server: one round after the other, each by another way to sum, from a plan; every round is one line.

The plan is a JSON file: `cells` (repetition, workload, variant) in their order, and the settings of the run.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.common import ndarrays_to_parameters
from flwr.common.serde import message_to_proto
from flwr.compat.common.recorddict_compat import parameters_to_arrayrecord
from flwr.server import ServerConfig
from flwr.server.compat import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.server.workflow.default_workflows import default_fit_workflow
from flwr.serverapp import Grid, ServerApp

from rounds_app import task
from secure_fed_diffusion.flower_mod import Proposal, SecureAggregationWorkflow
from secure_fed_diffusion.secagg import Roster

app = ServerApp()


def workflow_of(variant: str, plan: dict[str, Any]) -> Any:
    """Return the fit workflow of a variant."""
    if variant == "plain":
        return default_fit_workflow
    if variant == "secagg_plus":
        return SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=0.75)
    if variant == "one_round":
        return SecureAggregationWorkflow()
    if variant == "multi_round":
        return SecureAggregationWorkflow(Proposal(n_rounds=plan["setup_rounds"]))
    publics = {int(number): bytes.fromhex(public) for number, public in plan["roster"].items()}
    proposal = Proposal(n_rounds=plan["setup_rounds"], profile="active")
    return SecureAggregationWorkflow(proposal, roster=Roster(publics))


class Schedule:
    """A fit workflow that runs each round by the variant that the plan names, and writes down its events."""

    def __init__(self, grid: Grid, plan: dict[str, Any]) -> None:
        self._plan, self._events = plan, []
        # One for both workloads: the model is the same, and so is what a set-up has to fit.
        self._workflows = {v: workflow_of(v, plan) for v in {cell["variant"] for cell in plan["cells"]}}
        push, pull = grid.push_messages, grid.pull_messages

        def timed_push(messages):
            messages, began = list(messages), time.time()
            pushed = push(messages)
            ended = time.time()
            self._events.append(
                {
                    "event": "push",
                    "began": began,
                    "ended": ended,
                    "messages": [m.metadata.message_id for m in messages],
                    "bytes": sum(message_to_proto(m).ByteSize() for m in messages),
                }
            )
            return pushed

        def timed_pull(ids):
            began = time.time()
            replies = list(pull(ids))
            if replies:
                self._events.append(
                    {
                        "event": "pull",
                        "began": began,
                        "ended": time.time(),
                        "messages": [r.metadata.reply_to_message_id for r in replies],
                        "bytes": sum(message_to_proto(r).ByteSize() for r in replies),
                        "errors": sum(r.has_error() for r in replies),
                    }
                )
            return replies

        grid.push_messages, grid.pull_messages = timed_push, timed_pull

    def cell(self, server_round: int) -> dict[str, Any]:
        """Return what round `server_round`, from 1, is."""
        return self._plan["cells"][server_round - 1]

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run one round and append its line."""
        server_round = int(context.state.config_records["config"]["current_round"])
        cell = self.cell(server_round)
        self._events.clear()
        # Each starts from the same model: SecAgg+ returns float64, which is twice as much to send.
        start = ndarrays_to_parameters(task.initial(self._plan["hidden"]))
        context.state.array_records["parameters"] = parameters_to_arrayrecord(start, keep_input=True)
        began = time.time()
        self._workflows[cell["variant"]](grid, context)
        line = {**cell, "began": began, "ended": time.time(), "events": self._events}
        with Path(self._plan["rounds"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the plan."""
    plan = json.loads(Path(str(context.run_config["plan"])).read_text(encoding="utf-8"))
    schedule = Schedule(grid, plan)
    seconds = {"heavy": plan["heavy_seconds"], "light": 0.0}
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=plan["nodes"],
        min_available_clients=plan["nodes"],
        initial_parameters=ndarrays_to_parameters(task.initial(plan["hidden"])),
        on_fit_config_fn=lambda server_round: {"seconds": seconds[schedule.cell(server_round)["workload"]]},
    )
    legacy = LegacyContext(context, config=ServerConfig(num_rounds=len(plan["cells"])), strategy=strategy)
    DefaultWorkflow(fit_workflow=schedule)(grid, legacy)
