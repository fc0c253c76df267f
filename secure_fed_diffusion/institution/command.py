"""`sfd institution`: what a hospital's engineer types, and what it takes to try a consortium on one machine.

Heavy modules are imported by the command that needs them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from secure_fed_diffusion.errors import ConfigError, RunError

app = typer.Typer(
    name="institution",
    help="What an institution runs: keys, roster, check, start, and its own account of what was spent.",
    no_args_is_help=True,
)

OwnFile = Annotated[Path, typer.Argument(metavar="INSTITUTION.TOML", help="This institution's file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@app.command()
def keys(folder: Annotated[Path, typer.Argument(help="Where to write them.")] = Path()) -> None:
    """Make this institution's two key pairs: signing.key/.pub (roster) and node.key/.pub (SuperLink)."""
    from secure_fed_diffusion.institution.keys import make_keys

    for path in make_keys(folder):
        typer.echo(f"{path}  {'hand it out' if path.suffix == '.pub' else 'keep it: whoever has it is you'}")


@app.command()
def roster(
    publics: Annotated[
        list[Path] | None, typer.Argument(help="signing.pub of each institution, client 0 first.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the roster there.")] = None,
    show: Annotated[Path | None, typer.Option(help="Show this roster's root instead.")] = None,
) -> None:
    """Make the roster of public keys, or show one; its root is compared over another channel."""
    from secure_fed_diffusion.errors import LedgerError
    from secure_fed_diffusion.federation.heads import read_roster
    from secure_fed_diffusion.institution.keys import make_roster

    if (show is None) == (out is None) or bool(publics) != (out is not None):
        raise ConfigError(
            "expected PUB... --out FILE to make a roster, or --show FILE to read one", key="roster"
        )
    if out is not None:
        found = make_roster(publics or (), out)
    else:
        try:
            found = read_roster(Path(str(show)))
        except LedgerError:
            raise RunError(f"{show} is missing or holds no roster") from None
    for client_id, public in found.publics.items():
        typer.echo(f"client {client_id}: {public.hex()}")
    typer.echo(f"root: {found.root.hex()}")


@app.command()
def check(
    file: OwnFile,
    proposal: Annotated[
        Path | None, typer.Option(help="A coordinator's agreement.json: would it be refused, and why?")
    ] = None,
    connect: Annotated[bool, typer.Option(help="Shake hands with the SuperLink, and hang up.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say what is missing, wrong or would be refused, without starting; status 1 if anything is."""
    from secure_fed_diffusion.institution.check import check as look

    findings = look(file, proposal=proposal, connect=connect)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            typer.echo(f"{'ok ' if finding.holds else 'NO '} {finding.what}: {finding.found}")
    if not all(finding.holds for finding in findings):
        raise typer.Exit(1)


@app.command()
def start(file: OwnFile) -> None:
    """Start this institution's node; it answers until it is stopped (Ctrl-C, or SIGTERM)."""
    from secure_fed_diffusion.institution.check import check as look
    from secure_fed_diffusion.institution.settings import load
    from secure_fed_diffusion.institution.start import replace_process

    wrong = [finding for finding in look(file, connect=False) if not finding.holds]
    if wrong:
        raise RunError(f"not started, {wrong[0].what}: {wrong[0].found}")
    replace_process(file, load(file))


@app.command()
def spent(file: OwnFile, as_json: AsJson = False) -> None:
    """Recompute what this institution's records have cost so far, over all runs, from its own ledger."""
    from secure_fed_diffusion.dp.shared import verify_shared
    from secure_fed_diffusion.institution.budget import SPENT
    from secure_fed_diffusion.institution.check import spent as line
    from secure_fed_diffusion.institution.settings import load

    settings = load(file)
    path, found = Path(settings.machine.state) / SPENT, line(settings)
    if as_json:
        typer.echo(json.dumps(verify_shared(path).to_dict() if path.exists() else None))
        return
    typer.echo(found)
    for run_id, holding in (verify_shared(path).holdings if path.exists() else {}).items():
        counts = ", ".join(f"{count} x {name}" for name, count in holding.counts.items())
        typer.echo(f"run {run_id}: {counts or 'nothing'}{'' if holding.settled else ' reserved, not ended'}")


@app.command()
def close(file: OwnFile, run_id: Annotated[str, typer.Argument(help="As `spent` shows it.")]) -> None:
    """End a run whose coordinator is gone: count it for what it spent, and answer it no more."""
    from secure_fed_diffusion.institution.run_files import close_run
    from secure_fed_diffusion.institution.settings import load

    if not close_run(Path(load(file).machine.state), run_id):
        raise RunError(f"run {run_id} was never joined here")
    typer.echo(f"run {run_id} is closed")


@app.command()
def certificates(folder: Annotated[Path, typer.Argument(help="Where to write them.")]) -> None:
    """Make a CA and a server certificate for localhost, FOR TRYING OUT; a real one is your own PKI's."""
    from secure_fed_diffusion.institution.certificates import make_trial_certificates

    for path in make_trial_certificates(folder):
        typer.echo(str(path))


@app.command()
def rehearse(
    config_file: Annotated[Path, typer.Argument(metavar="CONFIG", help="A run's configuration (TOML).")],
    out: Annotated[Path, typer.Option(help="The folder to write; must be new.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, over what the file says; may be repeated."),
    ] = None,
    address: Annotated[
        str, typer.Option(help="Where the SuperLink will listen for nodes.")
    ] = "localhost:9092",
) -> None:
    """Write a whole consortium FOR TRYING OUT: each client's part of a data set in a folder of its own."""
    from secure_fed_diffusion import config
    from secure_fed_diffusion.institution.rehearsal import rehearse as write

    for path in write(config.load(config_file, overrides or ()), out, address=address):
        typer.echo(str(path))
    typer.echo(f"the coordinator's folder: {out / 'coordinator'}")
