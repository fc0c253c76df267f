"""A round's wall time by part, from the server's events and the clients' own lines.

Each exchange is followed along the client whose reply was the last to be taken: waiting for the node to look
for messages and for its process to be dispatched, Flower's start of that process, the app's training, what
the mod did around it, waiting for the reply to be taken.  The rest is the server's: pushing, its own steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PARTS = ("compute", "crypto", "start", "wait_down", "wait_up", "push", "server")
EXCHANGES = {"plain": 1, "secagg_plus": 4, "one_round": 4, "multi_round": 2, "multi_round_active": 3}
"""Those of one round; what comes before them is the set-up."""

Line = Mapping[str, Any]


def went_through(line: Line) -> bool:
    """Tell whether a round had all its exchanges and no node answered with an error."""
    pushes = [event for event in line["events"] if event["event"] == "push"]
    return len(pushes) >= EXCHANGES[line["variant"]] and not any(e.get("errors") for e in line["events"])


def record(line: Line, clients: Mapping[str, Line], *, n_clients: int) -> dict[str, Any]:
    """Return the flat record of a round; `clients` holds the clients' lines by message.

    `wall_seconds` and its parts leave the set-up out, `setup_seconds` is what it took.
    """
    pushes = [event for event in line["events"] if event["event"] == "push"]
    first = len(pushes) - EXCHANGES[line["variant"]]
    begins = pushes[first]["began"] if first else line["began"]
    parts = dict.fromkeys(PARTS, 0.0)
    for push in pushes[first:]:
        for part, seconds in _along_the_last(push, line["events"], clients).items():
            parts[part] += seconds
    wall = line["ended"] - begins
    parts["server"] = wall - sum(parts.values())
    pulls = [event for event in line["events"] if event["event"] == "pull" and event["began"] >= begins]
    return {
        "variant": line["variant"],
        "workload": line["workload"],
        "repetition": line["repetition"],
        "clients": n_clients,
        "exchanges": EXCHANGES[line["variant"]],
        "wall_seconds": wall,
        "setup_exchanges": first,
        "setup_seconds": begins - line["began"],
        **{f"{part}_seconds": seconds for part, seconds in parts.items()},
        "bytes_down": sum(push["bytes"] for push in pushes[first:]),
        "bytes_up": sum(pull["bytes"] for pull in pulls),
        "errors": sum(event.get("errors", 0) for event in line["events"]),
    }


def _along_the_last(push: Line, events: Sequence[Line], clients: Mapping[str, Line]) -> dict[str, float]:
    asked = set(push["messages"])
    pulls = [event for event in events if event["event"] == "pull" and asked & set(event["messages"])]
    last = max(pulls, key=lambda event: event["ended"])
    client = max((clients[m] for m in last["messages"] if m in asked), key=lambda one: one["left"])
    return {
        "push": push["ended"] - push["began"],
        "wait_down": client["started"] - push["ended"],
        "start": client["entered"] - client["started"],
        "compute": client["compute"],
        "crypto": client["left"] - client["entered"] - client["compute"],
        "wait_up": last["ended"] - client["left"],
    }
