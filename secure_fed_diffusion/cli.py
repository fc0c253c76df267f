"""`sfd`: run, audit, sample, report and measure from the command line.

Every error of the package becomes one line on standard error; the exit status is 0 only when what was
asked holds, 1 when it does not, 2 when the question itself was wrong, 130 after Ctrl-C.
"""

from __future__ import annotations

import re
import sys
import warnings
from importlib.metadata import entry_points
from typing import Annotated

from secure_fed_diffusion._version import VERSION
from secure_fed_diffusion.errors import ConfigError, SecureFedDiffusionError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # typer with click 8.5, on import
        import click
        import typer

        from secure_fed_diffusion.commands.audit import audit
        from secure_fed_diffusion.commands.bench import bench
        from secure_fed_diffusion.commands.report import export, report
        from secure_fed_diffusion.commands.run import run
        from secure_fed_diffusion.commands.sample import sample
        from secure_fed_diffusion.commands.terminal import fail, not_possible
        from secure_fed_diffusion.data import command as data
        from secure_fed_diffusion.flower_app import command as coordinator
        from secure_fed_diffusion.institution import command as institution
        from secure_fed_diffusion.sweep import command as sweeping
except ModuleNotFoundError as error:
    if (error.name or "").startswith("secure_fed_diffusion"):
        raise  # a part of ours is missing: no extra brings it
    sys.exit("sfd needs the training extra: pip install 'secure-fed-diffusion[train]'")

STOPPED = 130  # the status after Ctrl-C

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
for command in (run, audit, sample, report, export, sweeping.sweep, bench):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _sfd(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(VERSION)
        raise typer.Exit


def add_commands() -> None:
    """Take in the commands that stand beside the package and are found by their entry point."""
    for entry in entry_points(group="secure_fed_diffusion.commands"):
        app.command(entry.name)(entry.load())


def _advised_once(message: str) -> str:
    """Return a message with one "Did you mean": click 8.5 and typer both add theirs, in their own words."""
    said, *advice = re.split(r" (?=\(?Did you mean )", message)
    return " ".join([said, *advice[:1]])


def main() -> None:
    """Run `sfd`; the entry point of the distribution."""
    try:
        add_commands()
        status = app(standalone_mode=False) or 0
        if status == STOPPED:
            raise KeyboardInterrupt  # typer caught it, and returns its status without a word
        raise SystemExit(status)
    except click.UsageError as error:
        if not error.format_message():
            raise SystemExit(2) from None  # no arguments: the help was printed
        fail(_advised_once(error.format_message()), 2)
    except (click.Abort, KeyboardInterrupt):
        fail("stopped", STOPPED)
    except ConfigError as error:
        fail(str(error), 2)
    except SecureFedDiffusionError as error:
        fail(str(error), 1)
    except OSError as error:
        fail(not_possible(error, "standard output, or a file that was being written"), 1)


if __name__ == "__main__":
    main()
