"""`sfd coordinator`: what the coordinator types, in this order: propose, superlink, register, run.

Each but the first prepares Flower's own command and hands over to it; nothing here imports Flower.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from secure_fed_diffusion.errors import RunError

app = typer.Typer(
    name="coordinator",
    help="What the coordinator runs: the SuperLink, the registration of its nodes, and a run over them.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path,
    typer.Argument(help="ca.crt, server.crt, server.key, roster.json and each institution's *.node.pub."),
]
Address = Annotated[str, typer.Option(help="Where the SuperLink listens, as its certificate names it.")]


@app.command()
def propose(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="The file for the institutions.")] = Path("agreement.json"),
    config_file: Annotated[
        Path | None, typer.Option("--config", help="The run's configuration (default: FOLDER/config.toml).")
    ] = None,
) -> None:
    """Write what a run would propose, so that each institution can check it beforehand; nothing is begun."""
    from secure_fed_diffusion import config
    from secure_fed_diffusion.federation.heads import read_roster
    from secure_fed_diffusion.flower_app.separate import propose as agree

    settings = config.load(config_file or folder / "config.toml")
    agreement = agree(settings, read_roster(folder / "roster.json"), config_text=config.dump(settings))
    out.write_bytes(agreement.encode())
    typer.echo(f"{out}: plan {agreement.plan_digest}")
    typer.echo(f"each institution: sfd institution check institution.toml --proposal {out.name}")


@app.command()
def superlink(
    folder: Folder,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9092,
) -> None:
    """Start the SuperLink; it carries frames until it is stopped (Ctrl-C, or SIGTERM)."""
    from secure_fed_diffusion.flower_app import superlink as link

    words = link.superlink(folder, host=host, port=port)
    os.execve(words[0], words, link.environment(folder, os.environ))


@app.command()
def register(folder: Folder, address: Address = "localhost:9092") -> None:
    """Let the nodes of all institutions in: each *.node.pub in the folder; once is enough."""
    from secure_fed_diffusion.flower_app import superlink as link

    link.connect(folder, address=address)
    for words in link.registrations(folder):
        done = subprocess.run(
            words, env=link.environment(folder, os.environ), capture_output=True, text=True, check=False
        )
        name = Path(words[3]).name
        known = "already in use" in done.stdout + done.stderr
        if done.returncode and not known:
            raise RunError(f"{name} was not registered: {' '.join((done.stdout + done.stderr).split())}")
        typer.echo(f"{name}: {'registered before' if known else 'registered'}")


@app.command()
def run(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="The run's folder; must be new, or --resume.")],
    config_file: Annotated[
        Path | None, typer.Option("--config", help="The run's configuration (default: FOLDER/config.toml).")
    ] = None,
    address: Address = "localhost:9092",
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
    evaluate: Annotated[
        bool, typer.Option(help="The public data set of the configuration is here, measure on it.")
    ] = False,
    time_limit: Annotated[float, typer.Option(help="Seconds that an exchange waits for an answer.")] = 600.0,
    join_seconds: Annotated[float, typer.Option(help="Seconds to wait for the institutions.")] = 60.0,
) -> None:
    """Run over the institutions that are connected, and write the run's folder."""
    from secure_fed_diffusion import config
    from secure_fed_diffusion.flower_app import superlink as link

    chosen = config_file or folder / "config.toml"
    settings = config.load(chosen)
    link.connect(folder, address=address)
    words = link.run(
        folder,
        config=chosen,
        out=out,
        resume=resume,
        evaluate=evaluate,
        time_limit_seconds=time_limit,
        join_seconds=join_seconds,
    )
    status = subprocess.run(words, env=link.environment(folder, os.environ), check=False).returncode
    rounds = settings.warmup.rounds + getattr(settings.modes, settings.privacy.mode).rounds
    link.require_finished(out, rounds=rounds)
    if status:
        raise RunError(f"flwr ended with status {status}, and the run's folder is complete")
    typer.echo(f"done; for the report: sfd report {out}")
