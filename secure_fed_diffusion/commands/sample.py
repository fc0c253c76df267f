"""`sfd sample`: new images from a run's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from secure_fed_diffusion.commands.terminal import AsJson, RunFolder, quiet
from secure_fed_diffusion.errors import ConfigError, WrongFolderError


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
    quiet()
    if not any((directory / name).exists() for name in ("config.toml", "model")):
        raise WrongFolderError(f"{directory} holds no run: there is no model in it")
    written = draw_grid(directory / "model", out, per_class=per_class, seed=seed)
    typer.echo(json.dumps({"file": str(out), "images": written}) if as_json else f"{written} images: {out}")
