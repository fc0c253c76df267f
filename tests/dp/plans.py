"""The mechanisms and terms that the tests of this folder vary."""

from __future__ import annotations

from typing import Any

from secure_fed_diffusion.dp import Mechanism, Terms, View

MODEL = View(name="released_model")


def gaussian(multiplier: float, rate: float = 1.0, **changes: Any) -> Mechanism:
    """One continuous step at a trusted server, sensitivity 1."""
    fields: dict[str, Any] = {
        "kind": "central",
        "unit": "example",
        "relation": "add_remove",
        "sampling_rate": rate,
        "sensitivity": 1.0,
        "share_stddev": 0.0,
        "server_stddev": multiplier,
        "min_survivors": 1,
        "integer": False,
        "dimension": 1,
    }
    return Mechanism(**{**fields, **changes})


def shares(share_stddev: float = 4096.0, **changes: Any) -> Mechanism:
    """One integer step of at least 5 shares, Δ = 8192."""
    fields: dict[str, Any] = {
        "kind": "shares",
        "unit": "example",
        "relation": "add_remove",
        "sampling_rate": 0.1,
        "sensitivity": 8192.0,
        "share_stddev": share_stddev,
        "server_stddev": 0.0,
        "min_survivors": 5,
        "integer": True,
        "dimension": 160_000,
    }
    return Mechanism(**{**fields, **changes})


def terms(**changes: Any) -> Terms:
    """Two mechanisms under a budget in the view of the server and one colluder."""
    fields: dict[str, Any] = {
        "run_id": "run",
        "config_digest": "00ff",
        "delta": 1e-5,
        "budget_epsilon": 10.0,
        "guard": View(name="sum", colluders=1),
        "accountant": "pld",
        "mechanisms": {"gradient": shares(8192.0), "prototypes": shares(16384.0, dimension=7_840)},
        "views": (View(name="sum"), View(name="sum", colluders=1), MODEL),
    }
    return Terms(**{**fields, **changes})
