"""`sfd`: run, audit, sample, report and measure from the command line.

Every error of the package becomes one line on standard error; the exit status is 0 only when what was
asked holds, 1 when it does not, 2 when the question itself was wrong, 130 after Ctrl-C.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Callable
from enum import StrEnum
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from secure_fed_diffusion._version import VERSION
from secure_fed_diffusion.errors import ConfigError, SecureFedDiffusionError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # typer with click 8.5, on import
        import click
        import typer

        from secure_fed_diffusion.data import command as data
        from secure_fed_diffusion.flower_app import command as coordinator
        from secure_fed_diffusion.institution import command as institution
        from secure_fed_diffusion.sweep import command as sweeping
except ImportError:
    sys.exit("sfd needs the training extra: pip install 'secure-fed-diffusion[train]'")

if TYPE_CHECKING:
    from secure_fed_diffusion.audit.report import FolderAudit
    from secure_fed_diffusion.federation.records import Records
    from secure_fed_diffusion.reporting.export import TensorBoardWriter

# Everything heavy is imported by the command that needs it, so that `sfd --help` answers at once.

app = typer.Typer(
    name="sfd",
    help="Train diffusion models on data that may not leave its owner, and see what it costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.add_typer(institution.app)
app.add_typer(coordinator.app)
app.add_typer(data.app)
app.command()(sweeping.sweep)


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Engine(StrEnum):
    """Who carries the frames."""

    in_process = "in_process"
    flower = "flower"


class Benchmark(StrEnum):
    """What to measure."""

    secagg = "secagg"
    dpsgd = "dpsgd"
    round = "round"
    noise = "noise"
    evaluation = "evaluation"


RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]
RunFolders = Annotated[
    list[Path], typer.Argument(metavar="DIR...", help="Folders of runs, or folders that hold them.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@app.callback(invoke_without_command=True)
def _sfd(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(VERSION)
        raise typer.Exit


@app.command()
def run(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's configuration (TOML).")],
    out: Annotated[Path, typer.Option(help="The folder to write; must be new, or --resume.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, over what the file says.")
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
    from secure_fed_diffusion.reporting.console import RunProgress
    from secure_fed_diffusion.reporting.html import write_report

    _quiet()
    changes = list(overrides or []) + ([f'run.device="{device.value}"'] if device else [])
    settings = config.load(config_file, changes)
    board = _tensorboard(tensorboard)
    prepared = _preparer(engine)(settings, out, config_text=config.dump(settings), resume=resume)
    try:
        with _Silent() if as_json else RunProgress(len(prepared.plan.rounds)) as progress:
            if not as_json:
                _announce(prepared, progress, resume)
            summary = prepared.execute(progress if board is None else board.beside(progress))
    except KeyboardInterrupt:
        same = "" if engine is Engine.in_process else f" --engine {engine.value}"
        _fail(f"stopped; go on with: sfd run {out / 'config.toml'} --out {out}{same} --resume", 130)
    finally:
        prepared.ledger.close()
        if board is not None:
            board.close()
    report_path = write_report(out)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        typer.echo(f"report: {report_path}")


@app.command()
def audit(
    directory: RunFolder,
    head: Annotated[str | None, typer.Option(help="A ledger head that somebody else kept.")] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute what was spent, judge by the canaries; status 1 if a line was altered or a test accuses."""
    from secure_fed_diffusion.audit.report import audit_folder
    from secure_fed_diffusion.federation.records import read_records

    _quiet()
    records = read_records(directory, head=head)
    found = audit_folder(directory, records.own)
    drawing = _draw_audit(found, directory / "audit.svg")
    if as_json:
        typer.echo(json.dumps(records.to_dict() | {"audit": found.to_dict() | {"drawing": drawing}}))
    else:
        _print_audit(records, found)
        if drawing is not None:
            typer.echo(f"drawing: {drawing}")
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def sample(
    directory: RunFolder,
    out: Annotated[Path, typer.Option(help="The PNG grid to write.")] = Path("samples.png"),
    per_class: Annotated[int, typer.Option(min=1, max=10, help="Images of each class.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Public; another seed, other images.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Draw new images from a run's model: post-processing, free of privacy cost."""
    from secure_fed_diffusion.federation.assessment import draw_grid

    if out.suffix.lower() != ".png":
        raise ConfigError(f"expected a file that ends in .png, got {out}", key="--out")
    _quiet()
    written = draw_grid(directory / "model", out, per_class=per_class, seed=seed)
    typer.echo(json.dumps({"file": str(out), "images": written}) if as_json else f"{written} images: {out}")


@app.command()
def report(
    directories: RunFolders,
    out: Annotated[Path | None, typer.Option(help="The page of several runs; else comparison.html.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML file that opens offline: a run's report, or several runs side by side."""
    from secure_fed_diffusion.reporting.compare import write_comparison
    from secure_fed_diffusion.reporting.html import write_report
    from secure_fed_diffusion.reporting.run_set import holds_runs

    _quiet()
    first = directories[0]
    if len(directories) == 1 and not holds_runs(first):
        if out is not None:
            raise ConfigError("a single run's report is report.html in its own folder", key="--out")
        path = write_report(first)
    else:
        beside = first / "report.html" if len(directories) == 1 else Path("comparison.html")
        path = write_comparison(directories, out or beside)
    typer.echo(json.dumps({"report": str(path)}) if as_json else f"report: {path}")


@app.command()
def export(
    directories: RunFolders,
    csv: Annotated[Path | None, typer.Option(help="Write a tidy table, one row a round.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="The same as Parquet; extra export.")] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Write TensorBoard's event files into this folder; extra export.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the rounds of runs for other programs; training losses and clip counts never leave."""
    from secure_fed_diffusion.reporting import export as exporting
    from secure_fed_diffusion.reporting.run_set import read_runs

    _quiet()
    if csv is None and parquet is None and tensorboard is None:
        raise ConfigError("expected at least one of --csv, --parquet, --tensorboard", key="export")
    found = read_runs(directories)
    members = found.members
    for reason in found.left_out:
        typer.echo(f"sfd: left out: {reason}", err=True)
    rows = exporting.tidy_rows(members)
    written = [exporting.write_csv(rows, csv)] if csv else []
    written += [exporting.write_parquet(rows, parquet)] if parquet else []
    written += exporting.write_tensorboard(members, tensorboard) if tensorboard else []
    if as_json:
        files = [str(path) for path in written]
        typer.echo(json.dumps({"rows": len(rows), "files": files, "left_out": found.left_out}))
    else:
        typer.echo(f"{len(rows)} rounds of {len(members)} runs: {', '.join(map(str, written))}")


@app.command()
def bench(what: Benchmark, as_json: AsJson = False) -> None:
    """Measure the cryptography, a private step, a round, the noise or an evaluation: ratios in one run."""
    _quiet()
    figures = import_module(f"secure_fed_diffusion.benchmarks.{what.value}").run()
    if as_json:
        typer.echo(json.dumps(figures))
        return
    for name, value in _flat(figures):
        typer.echo(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def add_commands() -> None:
    """Take in the commands that stand beside the package and are found by their entry point."""
    for entry in entry_points(group="secure_fed_diffusion.commands"):
        app.command(entry.name)(entry.load())


def main() -> None:
    """Run `sfd`; the entry point of the distribution."""
    try:
        add_commands()
        raise SystemExit(app(standalone_mode=False) or 0)
    except click.UsageError as error:
        if not error.format_message():
            raise SystemExit(2) from None  # no arguments: the help was printed
        _fail(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped", 130)
    except ConfigError as error:
        _fail(str(error), 2)
    except SecureFedDiffusionError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)


def _fail(message: str, status: int) -> NoReturn:
    """Print one line to standard error and leave."""
    typer.echo(f"sfd: {' '.join(message.split())}", err=True)
    raise SystemExit(status)


def _quiet() -> None:
    """Keep other libraries' log lines and warnings away from the user."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


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
    plan = prepared.plan
    if plan.budget_epsilon is None:
        progress.note(f"mode {plan.mode}: no noise, no guarantee")
    else:
        progress.note(
            f"mode {plan.mode}: ε <= {plan.budget_epsilon:g} at δ = {plan.privacy.delta:g} in the view "
            f"{plan.guard.key}, noise multiplier {plan.noise_multiplier:.3f}, {plan.dimension:,} parameters"
        )
    for remark in plan.remarks():
        progress.note(remark)
    if resume:
        progress.note(f"going on after round {prepared.finished_round} of {len(plan.rounds)}")


def _draw_audit(found: FolderAudit, path: Path) -> str | None:
    """Draw an audit with canaries beside the run; a folder that may only be read is audited all the same."""
    from secure_fed_diffusion.reporting.audit_figure import plot_audit

    if found.last is None:
        return None
    try:
        return str(plot_audit(found, path))
    except OSError:
        return None


def _print_audit(records: Records, found: FolderAudit) -> None:
    from secure_fed_diffusion.reporting.audit_console import print_audit
    from secure_fed_diffusion.reporting.console import epsilon_table

    report = records.own
    figures = report.to_dict()
    guard = report.terms.guard.key
    print_audit(found)
    if figures["rounds"]:
        mechanism = next(iter(report.terms.mechanisms.values()))
        epsilon_table(
            list(figures["rounds"].values())[-1],
            delta=report.terms.delta,
            unit=mechanism.unit,
            relation=mechanism.relation,
        )
    budget = report.terms.budget_epsilon
    typer.echo("no budget: nothing is promised" if budget is None else f"budget: ε = {budget:g} in {guard}")
    if report.terms.note:
        typer.echo(report.terms.note)
    for line in records.shared_lines():
        typer.echo(line)
    typer.echo(records.statement)
    if records.testimony.roster_root is not None:
        typer.echo(f"roster: {records.testimony.roster_root}")
    typer.echo(f"head: {report.head}")


def _flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for name, value in figures.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


if __name__ == "__main__":
    main()
