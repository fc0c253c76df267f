"""`sfd run`: train by one configuration, in this process or over Flower."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secure_fed_diffusion.commands.terminal import AsJson, fail, not_possible, quiet
from secure_fed_diffusion.errors import ConfigError

if TYPE_CHECKING:
    from secure_fed_diffusion.reporting.export import TensorBoardWriter


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Engine(StrEnum):
    """Who carries the frames."""

    in_process = "in_process"
    flower = "flower"


def run(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's configuration (TOML).")],
    out: Annotated[Path, typer.Option(help="The folder to write; must be new, or --resume.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, over what the file says; may be repeated."),
    ] = None,
    device: Annotated[Device | None, typer.Option(help="Over run.device of the file.")] = None,
    engine: Annotated[
        Engine, typer.Option(help="All clients in this process, or Flower's simulation.")
    ] = Engine.in_process,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Also write each round for TensorBoard here; extra export.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train, and write the run's folder with its ledger, metrics, samples, model and report."""
    from secure_fed_diffusion import config
    from secure_fed_diffusion.reporting.console import RunProgress, guarantee_text
    from secure_fed_diffusion.reporting.html import write_report

    quiet()
    changes = list(overrides or []) + ([f'run.device="{device.value}"'] if device else [])
    settings = config.load(config_file, changes)
    board = _tensorboard(tensorboard)
    prepared = _preparer(engine)(settings, out, config_text=config.dump(settings), resume=resume)
    same = "" if engine is Engine.in_process else f" --engine {engine.value}"
    go_on = f"go on with: sfd run {out / 'config.toml'} --out {out}{same} --resume"
    try:
        with _Silent() if as_json else RunProgress(len(prepared.plan.rounds)) as progress:
            if not as_json:
                _announce(prepared, progress, resume)
            summary = prepared.execute(progress if board is None else board.beside(progress))
    except KeyboardInterrupt:
        fail(f"stopped; {go_on}", 130)
    except OSError as error:  # a full disk, or nobody reads what is printed: `sfd run ... | head`
        fail(f"{not_possible(error, f'a file in {out}')}; {go_on}", 1)
    finally:
        prepared.ledger.close()
        if board is not None:
            board.close()
    report_path = write_report(out)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        typer.echo(guarantee_text(summary))
        typer.echo(f"report: {report_path}")


class _Silent:
    """An observer that says nothing: standard output belongs to the JSON."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def round(self, record: dict[str, Any]) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


def _tensorboard(folder: Path | None) -> TensorBoardWriter | None:
    if folder is None:
        return None
    from secure_fed_diffusion.reporting.export import TensorBoardWriter

    return TensorBoardWriter(folder)


def _preparer(engine: Engine) -> Callable[..., Any]:
    """Return what builds a run for an engine.

    Raises:
        ConfigError: a package that the engine needs is not installed.
    """
    if engine is Engine.in_process:
        from secure_fed_diffusion.federation.prepare import prepare

        return prepare
    missing = [name for name in ("flwr", "ray") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the engine flower needs {' and '.join(missing)}: pip install 'secure-fed-diffusion[flower]'",
            key="--engine",
        )
    from secure_fed_diffusion.flower_app.simulation import prepare_simulation

    return prepare_simulation


def _announce(prepared: Any, progress: Any, resume: bool) -> None:
    """Say what is about to be spent, before it is."""
    from secure_fed_diffusion.reporting.wording import terms

    plan = prepared.plan
    if plan.budget_epsilon is None:
        progress.note(f"mode {plan.mode}: no noise, no guarantee")
    else:
        mechanism = plan.releases["training"].mechanism
        of_what = terms(plan.privacy.delta, mechanism.unit, mechanism.relation)
        progress.note(
            f"mode {plan.mode}: ε <= {plan.budget_epsilon:g} ({plan.privacy.accountant.upper()}) "
            f"at {of_what}, view: {plan.guard.key}; noise multiplier {plan.noise_multiplier:.3f}, "
            f"{plan.dimension:,} parameters"
        )
    for remark in plan.remarks():
        progress.note(remark)
    if resume:
        progress.note(f"going on after round {prepared.finished_round} of {len(plan.rounds)}")
