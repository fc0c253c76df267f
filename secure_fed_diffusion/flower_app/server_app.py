"""The ServerApp: the coordinator's part of a run, over whatever grid Flower hands it.

    flwr run . NAME --stream --run-config 'config="/abs/config.toml" out="/abs/run" roster="/abs/roster.json"'

`config` is the run's configuration (`sfd run`'s own), `out` its folder, `roster` the clients' public keys;
`resume` goes on with `out`, `evaluate` says that the data set's files lie here and may be opened for their
public splits (else no file of data is), `round-timeout` bounds one exchange and `join-seconds` the wait for
the clients, in seconds.

Not protected against: whoever may write `out`.  The coordinator holds no client's key, and no ledger but its
own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from secure_fed_diffusion import config
from secure_fed_diffusion.engines.flower import FlowerEngine
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.federation.heads import read_roster
from secure_fed_diffusion.flower_app.coordinator import conduct
from secure_fed_diffusion.flower_app.separate import prepare_separate


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What a Flower run names; Flower writes the underscores as hyphens."""

    config: str
    out: str
    roster: str
    resume: bool = False
    evaluate: bool = False
    round_timeout: float = 600.0
    join_seconds: float = 60.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RunConfig:
        """Read a run's configuration as Flower hands it over.

        Raises:
            ConfigError: a key is missing, unknown, or of another type.
        """
        kinds = {
            "config": str, "out": str, "roster": str, "resume": bool, "evaluate": bool,
            "round-timeout": (int, float), "join-seconds": (int, float),
        }  # fmt: skip
        for key, value in values.items():
            if key not in kinds:
                raise ConfigError(f"no such key; the keys here are {', '.join(kinds)}", key=key)
            if not isinstance(value, kinds[key]) or (kinds[key] is not bool and isinstance(value, bool)):
                raise ConfigError(f"got {value!r}, a {type(value).__name__}", key=key)
        missing = [key for key in ("config", "out", "roster") if not values.get(key)]
        if missing:
            raise ConfigError("the run's configuration does not name it", key=missing[0])
        return cls(**{key.replace("-", "_"): value for key, value in values.items()})


class _Lines:
    """An observer that prints a line a round; Flower streams what a ServerApp prints."""

    def round(self, record: dict[str, Any]) -> None:
        """Say what the round cost and who was in it."""
        spent = record["epsilon"][record["guard_view"]]["pld"]
        cost = "no guarantee" if spent is None else f"ε spent = {spent:.3f} ({record['guard_view']}, PLD)"
        print(
            f"round {record['round']}: {cost}, {len(record['survivors'])} of {len(record['cohort'])} clients",
            flush=True,
        )

    def note(self, text: str) -> None:
        """Say it."""
        print(text, flush=True)


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run, and leave the run's folder; `sfd report` and `sfd audit` read it."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    chosen = RunConfig.of(context.run_config)
    settings = config.load(Path(chosen.config))
    part = prepare_separate(
        settings,
        Path(chosen.out),
        config_text=config.dump(settings),
        resume=chosen.resume,
        roster=read_roster(Path(chosen.roster)),
        evaluate=chosen.evaluate,
    )
    engine = FlowerEngine(grid=grid, nodes={}, time_limit_seconds=chosen.round_timeout)
    try:
        conduct(part, engine, _Lines(), join_seconds=chosen.join_seconds)
    finally:
        part.ledger.close()
