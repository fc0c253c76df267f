"""What each `results.json` says of its origin, and the part of a README that is written from it.

The command is recorded as it was given, without the folders of the machine that ran it.

>>> command_line("experiments.mnist_cpu.run", ["--grid", "epsilon1", "--out", "/home/me/runs/mnist"])
'python -m experiments.mnist_cpu.run --grid epsilon1 --out mnist'
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ABSOLUTE = re.compile(r"""(?<![\w.~/-])/[^"'\[\]{},]+""")  # in a value, or in a list of them, too


def origin(module: str, words: Sequence[str]) -> dict[str, str]:
    """Return the first entries of a `results.json`: the command with these words, commit and machine."""
    return {"command": command_line(module, words), "commit": commit(), "machine": machine()}


def origin_text(results: Mapping[str, Any]) -> str:
    """Say what made the results, and at which other commits some of their records were collected."""
    others = list(dict.fromkeys(record.get("commit", results["commit"]) for record in results["records"]))
    others = [commit for commit in others if commit != results["commit"]]
    earlier = f"; records of earlier calls at {', '.join(others)}" if others else ""
    return f"`{results['command']}` at commit {results['commit']}, {results['machine']}{earlier}"


def command_line(module: str, words: Sequence[str]) -> str:
    """Return the line that runs `module` with these words; of an absolute path only its name is kept.

    So `--out /somewhere/name` is recorded as `--out name`: where it lay is nobody else's matter.
    """
    return " ".join([f"python -m {module}", *(shlex.quote(_without_folders(word)) for word in words)])


def _without_folders(word: str) -> str:
    if Path(word).is_absolute():
        return Path(word).name
    return _ABSOLUTE.sub(lambda path: Path(path[0]).name, word)


def commit() -> str:
    """Return the commit that the working tree stands at, marked where it has been edited."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def machine(device: str | None = None) -> str:
    """Say what computed the figures; `device` is named beside the cores."""
    parts = [f"{os.cpu_count()} cores", device, platform.machine(), f"Python {platform.python_version()}"]
    return ", ".join(part for part in parts if part is not None)


def into_readme(readme: Path, mark: str, body: str) -> None:
    """Replace what is between `<!-- mark -->` and `<!-- end of mark -->`.

    Raises:
        ValueError: the README lost its marks; it is left as it is.
    """
    first, last = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    head, begins, rest = readme.read_text(encoding="utf-8").partition(first)
    _, ends, tail = rest.partition(last)
    if not begins or not ends:
        raise ValueError(f"{readme.name} has no {first} … {last}")
    content = body.strip("\n")
    readme.write_text(f"{head}{first}\n{content}\n{last}{tail}", encoding="utf-8")
