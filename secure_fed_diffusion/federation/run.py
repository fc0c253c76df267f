"""A run's folder: everything is built and checked before any work, then the rounds write into it.

`ledger.jsonl` is written ahead of every frame; `metrics.jsonl` gets its line, and the checkpoint is
replaced, after a round is over; so a process killed at any point leaves a folder that `resume`
continues, and a ledger that never counts less than what left.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from secure_fed_diffusion.data.datasets import Dataset, load
from secure_fed_diffusion.data.partition import partition
from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.diffusion.sampler import save_pipeline
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.engines.in_process import Engine, InProcessEngine
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import ConfigError, RunError
from secure_fed_diffusion.federation import checkpoint, server_view
from secure_fed_diffusion.federation.assessment import Assessment
from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.plan import Plan, make_plan
from secure_fed_diffusion.federation.rounds import Outcome, epsilon_by_view, record, run_rounds
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.training.local import ClientData
from secure_fed_diffusion.training.vectors import dimension, load_flat

STATEMENT = {
    "none": "Mode none protects nothing: it is the baseline that the others are measured against.",
    "central": "Whoever holds every released model; the server itself is trusted with each sum.",
    "local": "Everyone, the server and all other clients together included.",
    "distributed": "The server together with {colluders} of the clients, and whoever holds the models.",
    "client": "The server together with {colluders} of the clients; the unit is a whole client.",
}


class Observer(Protocol):
    """Who is told how a run goes."""

    def round(self, record: dict[str, Any]) -> None:
        """Take one finished round's line of `metrics.jsonl`."""

    def note(self, text: str) -> None:
        """Take a remark."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The paths of a run's folder."""

    root: Path

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

    def grid(self, number: int) -> Path:
        """The sample grid after a round."""
        return self.root / "samples" / f"round_{number:04d}.png"

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file whole."""
        fresh = self.root / (name + ".new")
        fresh.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        fresh.replace(self.root / name)


@dataclass(slots=True, kw_only=True)
class Run:
    """A run that is ready to go: every setting checked, every file read, nothing sent yet."""

    settings: RunSettings
    folder: Folder
    plan: Plan
    server: Server
    engine: Engine
    ledger: Ledger
    assessment: Assessment
    class_names: tuple[str, ...]
    finished_round: int

    def execute(self, observer: Observer) -> dict[str, Any]:
        """Run the rounds that are left; return the summary, which is also in the folder."""
        started = time.perf_counter()
        last = len(self.plan.rounds)
        rounds = run_rounds(
            self.plan,
            self.server,
            self.engine,
            self.ledger,
            first=self.finished_round + 1,
            note=observer.note,
        )
        for outcome in rounds:
            line = self._close(outcome, last=outcome.planned.number == last)
            observer.round(line)
        return self._summarize(time.perf_counter() - started)

    def _close(self, outcome: Outcome, *, last: bool) -> dict[str, Any]:
        """Apply a round's sum, measure, and write what the folder keeps of it."""
        number = outcome.planned.number
        started = time.perf_counter()
        self.server.apply(outcome.total)
        outcome.seconds["server"] += time.perf_counter() - started
        line = record(self.plan, self.ledger, outcome)
        started = time.perf_counter()
        weights = self.server.average.average
        line["holdout_loss"] = self.assessment.holdout_loss(weights)
        if last or self._due(number):
            line |= self.assessment.measure(
                weights, grid=self.folder.grid(number), last=last, seed=self.settings.run.seed + number
            )
        line["seconds"]["evaluation"] = round(time.perf_counter() - started, 4)
        view = server_view.describe(
            number, outcome.frames, outcome.total, self.plan.releases[outcome.planned.release]
        )
        self.folder.write_json("server_view.json", view)
        with self.folder.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        checkpoint.save(self.folder.checkpoint, finished_round=number, state=self.server.state_dict())
        self.finished_round = number
        return line

    def _due(self, number: int) -> bool:
        """Evaluate each n-th round of training, and what the warm-up alone gave."""
        n_prototypes = sum(planned.release == "prototypes" for planned in self.plan.rounds)
        if number <= n_prototypes:
            return number == n_prototypes
        return self.settings.evaluation.due(number - n_prototypes - 1, len(self.plan.rounds) - n_prototypes)

    def _summarize(self, seconds: float) -> dict[str, Any]:
        lines = read_lines(self.folder.metrics)
        evaluated = [line for line in lines if "prototype_accuracy" in line]
        metrics = {
            key: value
            for key, value in (evaluated[-1] if evaluated else {}).items()
            if key.startswith("fid_") or key in ("prototype_accuracy", "tstr_cnn")
        }
        parts: dict[str, float] = {}
        for line in lines:
            for part, value in line["seconds"].items():
                parts[part] = round(parts.get(part, 0.0) + value, 3)
        mechanism = self.plan.releases["training"].mechanism
        summary = {
            "mode": self.plan.mode,
            "target_epsilon": self.plan.budget_epsilon,
            "epsilon": epsilon_by_view(self.plan, self.ledger),
            "delta": self.plan.privacy.delta,
            "unit": mechanism.unit,
            "relation": mechanism.relation,
            "guard_view": self.plan.guard.key,
            "accountants": ["pld", "rdp"],
            "noise_multiplier": self.plan.noise_multiplier,
            "noise_overhead": self.plan.noise_overhead,
            "floor": self.assessment.floor,
            "metrics": metrics,
            "class_names": list(self.class_names),
            "clients": self.plan.federation.clients,
            "clients_per_round": self.plan.federation.clients_per_round,
            "colluders": self.plan.federation.colluders,
            "masked": self.plan.masked,
            "parameters": self.plan.dimension,
            "rounds": len(lines),
            "bytes_up": sum(line["bytes_up"] for line in lines),
            "bytes_down": sum(line["bytes_down"] for line in lines),
            "seconds": round(sum(parts.values()), 3),
            "seconds_of_this_process": round(seconds, 3),
            "seconds_by_part": parts,
            "ledger_head": self.ledger.head,
            "finished": self.finished_round == len(self.plan.rounds),
            "statement": STATEMENT[self.plan.mode].format(colluders=self.plan.federation.colluders),
        }
        load_flat(self.server.model, self.server.average.average)
        save_pipeline(
            self.server.model, self.settings.diffusion, self.settings.model.patch, self.folder.model
        )
        self.folder.write_json("summary.json", summary)
        return summary


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a last line that was torn by a kill is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def choose_device(name: str) -> torch.device:
    """Return the device to compute on.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("asked for cuda, but torch finds no GPU here; use cpu or auto", key="run.device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def plan_for(settings: RunSettings, dataset: Dataset, model: nn.Module) -> Plan:
    """Make the plan of `settings`; the data give their public facts alone (shape, classes, declared size)."""
    return make_plan(
        seed=settings.run.seed,
        federation=settings.federation,
        secure_sum=settings.secagg,
        privacy=settings.privacy,
        modes=settings.modes,
        warmup=settings.warmup,
        diffusion=settings.diffusion,
        patch=settings.model.patch,
        image_shape=dataset.image_shape,
        n_classes=dataset.n_classes,
        dimension=dimension(model),
        public_records=len(dataset.train),
    )


def prepare(
    settings: RunSettings,
    directory: Path,
    *,
    config_text: str,
    resume: bool = False,
    entropy: Entropy = system,
    coins: Entropy = system,
) -> Run:
    """Build a run in `directory`; refuses whatever cannot be honoured before anything is sent.

    `entropy` draws keys, masks and noise, `coins` the Poisson samples; tests inject their own.

    Raises:
        ConfigError, DataError, PrivacyError: the settings cannot be honoured.
        RunError: the folder is taken, or does not belong to these settings.
    """
    folder = Folder(directory)
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    dataset = load(settings.data)
    model = build_unet(
        settings.model,
        image_shape=dataset.image_shape,
        n_classes=dataset.n_classes,
        n_timesteps=settings.diffusion.timesteps,
        seed=settings.run.seed,
    ).to(device)
    parts = partition(
        dataset.train.labels,
        settings.federation.clients,
        scheme=settings.data.partition,
        beta=settings.data.beta,
        classes_per_client=settings.data.classes_per_client,
        seed=settings.data.seed,
    )
    plan = plan_for(settings, dataset, model)
    scratch = build_unet(
        settings.model,
        image_shape=dataset.image_shape,
        n_classes=dataset.n_classes,
        n_timesteps=settings.diffusion.timesteps,
    ).to(device)
    objective = Objective(settings.diffusion, device)
    assessment = Assessment(settings, dataset, scratch, objective, device)
    ledger, run_id = _open_ledger(folder, plan, config_text, resume=resume)
    server = Server(run_id, plan, model, objective, entropy=entropy)
    saved = checkpoint.load(folder.checkpoint)
    if saved is not None:
        server.load_state_dict(saved[1])
    finished = saved[0] if saved else 0
    _cut_metrics(folder, finished)
    handlers = {}
    for client_id, indices in enumerate(parts):
        images = dataset.train.subset(indices)
        contributor = Contributor(
            client_id=client_id,
            plan=plan,
            images=images,
            data=ClientData(images, patch=settings.model.patch, device=device),
            model=scratch,
            objective=objective,
            entropy=entropy,
            coins=coins,
        )
        handlers[client_id] = Client(run_id, contributor, ledger, entropy=entropy).handle
    return Run(
        settings=settings,
        folder=folder,
        plan=plan,
        server=server,
        engine=InProcessEngine(handlers, _rehearsed(settings)),
        ledger=ledger,
        assessment=assessment,
        class_names=tuple(dataset.class_names),
        finished_round=finished,
    )


def _rehearsed(settings: RunSettings) -> Any:
    """Return who is gone when, by `federation.vanish`; without masks there is one phase to vanish from."""
    phases = ("advertise", "share_keys", "masked_input", "unmask")
    gone = {(event.round, event.client): phases.index(event.phase) for event in settings.federation.vanish}

    def absent(number: int, client_id: int, phase: str) -> bool:
        since = gone.get((number, client_id))
        return since is not None and (phase not in phases or phases.index(phase) >= since)

    return absent


def _open_ledger(folder: Folder, plan: Plan, config_text: str, *, resume: bool) -> tuple[Ledger, str]:
    """Begin the folder, or go on with it; a ledger is only ever continued under the same terms."""
    digest = hashlib.sha256(config_text.encode()).hexdigest()
    if resume:
        if not folder.ledger.exists():
            raise RunError(f"{folder.root} holds no run to resume: there is no {folder.ledger.name}")
        ledger = Ledger.open(folder.ledger)
        if ledger.terms != plan.terms(ledger.terms.run_id, digest):
            ledger.close()
            raise RunError(f"{folder.root} was begun under other settings; resume with its own config.toml")
        return ledger, ledger.terms.run_id
    if folder.root.exists() and any(folder.root.iterdir()):
        raise RunError(f"{folder.root} is not empty: choose another folder, or --resume the run in it")
    folder.root.mkdir(parents=True, exist_ok=True)
    (folder.root / "config.toml").write_text(config_text, encoding="utf-8")
    run_id = system(16).hex()
    return Ledger.create(folder.ledger, plan.terms(run_id, digest)), run_id


def _cut_metrics(folder: Folder, finished: int) -> None:
    """Drop the lines of rounds that the checkpoint does not hold: they are done again."""
    kept = [line for line in read_lines(folder.metrics) if line["round"] <= finished]
    if folder.metrics.exists():
        fresh = folder.metrics.with_suffix(".new")
        fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        fresh.replace(folder.metrics)
