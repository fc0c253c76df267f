"""A run's folder on disk: where its files lie, and how it is begun, continued and cut back.

A ledger is only ever continued under the terms that it was begun with; metrics of rounds that the
checkpoint does not hold are dropped, because those rounds are done, and charged, again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import ConfigError, RunError, SecureFedDiffusionError, WrongFolderError
from secure_fed_diffusion.federation.heads import HeadBook, read_roster, write_roster
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.testimony import CLIENTS, HEADS, KEY, PEERS, ROSTER
from secure_fed_diffusion.secagg.signing import Roster, SigningKey

_MOST_KEYS = 3  # of the settings that differ: an error is one line


@dataclass(frozen=True, slots=True)
class Folder:
    """The paths of a run's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The complete configuration."""
        return self.root / "config.toml"

    @property
    def ledger(self) -> Path:
        """What was spent."""
        return self.root / "ledger.jsonl"

    @property
    def metrics(self) -> Path:
        """One line a round."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The server's state after the last finished round."""
        return self.root / "checkpoint"

    @property
    def model(self) -> Path:
        """The released model, as diffusers loads it."""
        return self.root / "model"

    @property
    def roster(self) -> Path:
        """The clients' public signing keys."""
        return self.root / ROSTER

    @property
    def heads(self) -> Path:
        """Every head of a ledger that a client signed, as the server took it."""
        return self.root / HEADS

    @property
    def attempts(self) -> Path:
        """Which attempts were opened, where the clients are other processes."""
        return self.root / "attempts.txt"

    def client(self, client_id: int) -> Path:
        """What one client keeps for itself: its signing key, and its peers' heads."""
        return self.root / CLIENTS / f"{client_id:04d}"

    def grid(self, number: int) -> Path:
        """The sample grid after a round."""
        return self.root / "samples" / f"round_{number:04d}.png"

    def write_config(self, text: str) -> None:
        """Replace the configuration whole: what a kill leaves can be resumed with."""
        fresh = self.root / "config.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.config)

    def write_json(self, name: str, value: Any, *, mode: int | None = None) -> None:
        """Replace a JSON file whole; `mode` are its permissions from its first byte on."""
        fresh = self.root / (name + ".new")
        if mode is not None:
            fresh.touch(mode)
            fresh.chmod(mode)
        fresh.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        fresh.replace(self.root / name)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a last line that was torn by a kill is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def open_ledger(
    folder: Folder, plan: Plan, config_text: str, *, resume: bool, by_server: bool = False
) -> tuple[Ledger, str]:
    """Begin the folder, or go on with it; return the ledger and the run's id.

    `by_server`: the ledger is the coordinator's book, each client keeps its own.

    Raises:
        WrongFolderError: the folder is taken, or holds no run to resume.
        RunError: it was begun under other settings.
    """
    digest = hashlib.sha256(config_text.encode()).hexdigest()
    if resume:
        if not folder.ledger.exists():
            raise WrongFolderError(f"{folder.root} holds no run to resume: there is no {folder.ledger.name}")
        if b"\n" not in folder.ledger.read_bytes():  # killed before its first line: nothing was begun
            if folder.roster.exists():
                raise RunError(
                    f"{folder.root} was begun, and its {folder.ledger.name} has lost every line: what was "
                    "spent cannot be told"
                )
            return _begin(folder, plan, config_text, digest, by_server)
        ledger = Ledger.open(folder.ledger)
        try:
            if ledger.terms != plan.terms(ledger.terms.run_id, digest, by_server=by_server):
                differs = _what_differs(folder.config, ledger.terms.config_digest, config_text)
                raise RunError(f"{folder.root} was begun under other settings: {differs}")
            folder.write_config(config_text)  # a kill may have come before it was there
        except BaseException:
            ledger.close()
            raise
        return ledger, ledger.terms.run_id
    require_free(folder.root, "choose another folder, or --resume the run in it")
    folder.root.mkdir(parents=True, exist_ok=True)
    return _begin(folder, plan, config_text, digest, by_server)


def require_free(root: Path, advice: str) -> None:
    """Refuse to begin in a folder that holds anything, or in a file; `advice` is what to do.

    Raises:
        WrongFolderError: nothing was changed.
    """
    if root.exists() and not root.is_dir():
        raise WrongFolderError(f"{root} is a file: {advice}")
    if root.exists() and any(root.iterdir()):
        raise WrongFolderError(f"{root} is not empty: {advice}")


def _what_differs(begun: Path, begun_digest: str, config_text: str) -> str:
    """Name the first settings that are not those of the run, or what else it is, and what to do.

    Only what the ledger's digest proves to be the run's own configuration is quoted.
    """
    content = begun.read_bytes() if begun.is_file() else b""
    if hashlib.sha256(content).hexdigest() != begun_digest:
        return f"{begun.name} is no longer the one that it was begun with; resume with that one"
    was, now = (dict(_settings(tomllib.loads(text))) for text in (content.decode(), config_text))
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    if not keys:
        return "not those of its config.toml, but the engine or the version that computes with them"
    named = [
        f"{key} was {was.get(key, 'not set')}, is {now.get(key, 'not set')}" for key in keys[:_MOST_KEYS]
    ]
    named += [f"and {len(keys) - _MOST_KEYS} more"] if len(keys) > _MOST_KEYS else []
    return f"{', '.join(named)}; resume with its own config.toml"


def _settings(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _begin(folder: Folder, plan: Plan, config_text: str, digest: str, by_server: bool) -> tuple[Ledger, str]:
    run_id = system(16).hex()
    ledger = Ledger.create(folder.ledger, plan.terms(run_id, digest, by_server=by_server))
    try:
        folder.write_config(config_text)
    except BaseException:
        ledger.close()
        raise
    return ledger, run_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """Who the clients of a run are, and what each of them and the server has been shown."""

    roster: Roster
    keys: Mapping[int, SigningKey] = field(repr=False)
    heads: HeadBook  # the server's
    peers: Mapping[int, HeadBook]


def open_identities(folder: Folder, ledger: Ledger, n_clients: int, *, entropy: Entropy) -> Identities:
    """Make the clients' signing keys before anything is charged, or read them again.

    One process plays every client here, so all keys lie in the run's folder, readable by its owner alone.

    Raises:
        RunError: something was charged, and the keys it was signed with are gone.
    """
    try:
        keys, roster = _keys(folder, ledger, range(n_clients), entropy)
    except SecureFedDiffusionError:
        ledger.close()
        raise
    run_id = ledger.terms.run_id
    return Identities(
        roster=roster,
        keys=keys,
        heads=HeadBook(run_id, roster, folder.heads, keep_all=True),
        peers={c: HeadBook(run_id, roster, folder.client(c) / PEERS) for c in keys},
    )


def adopt_roster(folder: Folder, ledger: Ledger, roster: Roster) -> HeadBook:
    """Keep the roster that the coordinator was given, or find the same one again; return its book of heads.

    Raises:
        RunError: the run was begun with another roster.
    """
    if folder.roster.exists():
        if read_roster(folder.roster).root != roster.root:
            ledger.close()
            raise RunError(f"{folder.root} was begun with another roster than the one given now")
    else:
        write_roster(folder.roster, roster)
    return HeadBook(ledger.terms.run_id, roster, folder.heads, keep_all=True)


def _keys(
    folder: Folder, ledger: Ledger, clients: range, entropy: Entropy
) -> tuple[dict[int, SigningKey], Roster]:
    if not folder.roster.exists():
        if ledger.lines > 1:
            raise RunError(f"{folder.root} has charges and no {ROSTER}: whose they are cannot be checked")
        for client_id in clients:
            folder.client(client_id).mkdir(parents=True, exist_ok=True)
            _write_key(folder.client(client_id) / KEY, SigningKey.generate(entropy))
        fresh = {client_id: _read_key(folder.client(client_id) / KEY) for client_id in clients}
        write_roster(folder.roster, Roster({client_id: key.public for client_id, key in fresh.items()}))
    roster = read_roster(folder.roster)
    keys = {client_id: _read_key(folder.client(client_id) / KEY) for client_id in clients}
    if roster.publics != {client_id: key.public for client_id, key in keys.items()}:
        raise RunError(f"the keys in {folder.root / CLIENTS} are not those of {ROSTER}")
    return keys, roster


def _write_key(path: Path, key: SigningKey) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key.secret.hex() + "\n")


def _read_key(path: Path) -> SigningKey:
    try:
        return SigningKey(bytes.fromhex(path.read_text(encoding="ascii")))
    except (OSError, ValueError, ConfigError):
        raise RunError(f"{path} holds no signing key: restore it or start anew") from None


def cut_metrics(folder: Folder, finished: int) -> None:
    """Drop the lines of rounds that the checkpoint does not hold: they are done again."""
    kept = [line for line in read_lines(folder.metrics) if line["round"] <= finished]
    if folder.metrics.exists():
        fresh = folder.metrics.with_suffix(".new")
        fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        fresh.replace(folder.metrics)
