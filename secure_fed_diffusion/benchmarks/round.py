"""What a round of mode `distributed` costs, part by part: what is not per-example gradients, and how much.

Real clients, a real server, a real ledger on disk, random images, a random network: rounds as `sfd run`
makes them, in one process.  The seconds are the processor's own, of this process, so that a busy machine
stretches none of them; waiting for the disk is not in them.  A part's seconds hold nothing of a part inside
it.  A share is a part's seconds over those of the whole round, and the median of the rounds' shares.

`alone`: each client fills its own micro-batches, as in an institution's own process.  `together`: one process
computes for all of them, in shared ones, as a run in one process does (`federation.together`).

Not measured: other processes, the network, evaluation.

    >>> from secure_fed_diffusion.benchmarks import round
    >>> round.run()["shares"]["together"]["all_but_gradients"]    # doctest: +SKIP
    0.16
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secure_fed_diffusion import config, secagg
from secure_fed_diffusion.benchmarks.meter import Meter
from secure_fed_diffusion.data.images import ImageSet
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.engines.in_process import InProcessEngine
from secure_fed_diffusion.engines.side_by_side import SideBySide
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.federation import contribution, together
from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.prepare import plan_for
from secure_fed_diffusion.federation.rounds import run_rounds
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.federation.workbench import Workbench
from secure_fed_diffusion.federation.workroom import HandedIn, in_this_process
from secure_fed_diffusion.secagg import masks
from secure_fed_diffusion.training.local import ClientData

MIN_REPETITIONS = 3
GRADIENTS = "per_example_gradients"
NOTE = (
    "seconds of the processor's own time; key_setup is paid once for every secagg.rounds_per_setup rounds, "
    "here for each"
)

CASE = """
[federation]
clients = 10
clients_per_round = 10
min_survivors = 9
declared_records = 10000
[secagg]
threshold = 8
[model]
channels = [16, 32]
patch = 2
[warmup]
draws = 0
[modes.distributed]
sampling_rate = 0.1
divisor = 1000
micro_batch = 64
"""
IMAGE_SHAPE, N_CLASSES = (1, 28, 28), 10


# What is counted for which part; whatever the clients and the server do besides is `frames`.
PARTS: Sequence[tuple[Any, str, str]] = (
    (InProcessEngine, "exchange", "frames"),
    (Server, "open", "frames"),
    (Server, "take", "frames"),
    (secagg.Client, "advertise", "key_setup"),
    (secagg.Client, "choose", "key_setup"),
    (secagg.Client, "share_keys", "key_setup"),
    (contribution, "micro_batches", GRADIENTS),
    (together, "micro_batches", GRADIENTS),
    (ClientData, "records", "records_and_draws"),
    (contribution, "integer_sum", "clip_and_round"),
    (together, "integer_sums", "clip_and_round"),
    (contribution, "draw_noise", "noise"),
    (contribution, "poisson_sample", "sampling"),
    (contribution, "load_flat", "weights"),
    (together, "load_flat", "weights"),
    (masks, "apply", "masks"),
    (Ledger, "charge", "ledger"),
    (Server, "total", "decode"),
    (Server, "apply", "server_step"),
)


@dataclass(slots=True, kw_only=True)
class Federation:
    """Clients, server and ledger on this machine."""

    plan: Plan
    server: Server
    clients: Mapping[int, Client]
    ledger: Ledger
    beside: SideBySide | None

    @classmethod
    def build(cls, settings: RunSettings, folder: Path, *, joined: bool) -> Federation:
        """Make one of random images and a random network; its ledger is in `folder`."""
        facts = _Facts(IMAGE_SHAPE, N_CLASSES)
        bench = Workbench.make(settings, image_shape=IMAGE_SHAPE, n_classes=N_CLASSES, device="cpu")
        plan = plan_for(settings, facts, bench.model)
        bench.require_exact_micro_batches(plan)
        images = _images(settings)
        contributors = {
            client_id: bench.contributor(plan, client_id, own) for client_id, own in images.items()
        }
        keys = {client_id: secagg.SigningKey.generate() for client_id in contributors}
        roster = secagg.Roster({client_id: key.public for client_id, key in keys.items()})
        ledger = Ledger.create(folder / "ledger.jsonl", plan.terms("benchmark", "0" * 64))
        beside = in_this_process(plan, images, bench, {}) if joined else None
        clients = {
            client_id: Client(
                "benchmark",
                each if beside is None else HandedIn(client_id, plan, beside),
                ledger,
                roster=roster,
                signer=keys[client_id],
            )
            for client_id, each in contributors.items()
        }
        model = Workbench.make(settings, image_shape=IMAGE_SHAPE, n_classes=N_CLASSES, device="cpu").model
        server = Server("benchmark", plan, model, bench.objective, roster=roster)
        return cls(plan=plan, server=server, clients=clients, ledger=ledger, beside=beside)

    def rounds(self) -> Iterator[None]:
        """Make the plan's rounds, one each time that the next is asked for."""
        engine = InProcessEngine(
            {client_id: client.handle for client_id, client in self.clients.items()}, beside=self.beside
        )
        for outcome in run_rounds(self.plan, self.server, engine, self.ledger, first=1, note=_ignore):
            self.server.apply(outcome.total)
            yield


@dataclass(frozen=True, slots=True)
class _Facts:
    image_shape: tuple[int, int, int]
    n_classes: int


def _ignore(text: str) -> None:
    """Take a remark, and leave it."""


def _images(settings: RunSettings) -> dict[int, ImageSet]:
    """Deal random images to the clients, as many to each."""
    rng = np.random.default_rng(0)
    n, clients = settings.federation.declared_records, settings.federation.clients
    images = rng.integers(0, 256, (n, *IMAGE_SHAPE), dtype=np.uint8)
    whole = ImageSet(images, rng.integers(0, N_CLASSES, n))
    return {client_id: whole.subset(slice(client_id, None, clients)) for client_id in range(clients)}


@contextmanager
def _counted(meter: Meter) -> Iterator[None]:
    """Count the parts while this lasts."""
    honest = [(place, name, getattr(place, name)) for place, name, _ in PARTS]
    try:
        for place, name, part in PARTS:
            setattr(place, name, meter.around(part, getattr(place, name)))
        yield
    finally:
        for place, name, function in honest:
            setattr(place, name, function)


def run(*, repetitions: int = MIN_REPETITIONS, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return {"shares", "seconds", "together_over_alone", "sizes", "repetitions", "note"}.

    `shares` and `seconds` are by way (`alone`, `together`), then by part; `all_but_gradients` is the sum of
    all shares but that of the gradients.  The two ways take turns, round by round.

    Raises:
        ConfigError: fewer than three repetitions.
    """
    if repetitions < MIN_REPETITIONS:
        raise ConfigError(f"expected repetitions >= {MIN_REPETITIONS}, got {repetitions}", key="repetitions")
    settings = config.parse(CASE, [f"modes.distributed.rounds={repetitions + 1}", *overrides])
    meters = {way: [Meter() for _ in range(repetitions + 1)] for way in ("alone", "together")}
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            plan = _measure(settings, Path(scratch), meters)
    finally:
        torch.set_num_threads(threads)
    seconds = {
        way: [meter.spent for meter in turns[1:]] for way, turns in meters.items()
    }  # the first warms up
    parts = sorted({part for turns in seconds.values() for spent in turns for part in spent})
    return {
        "shares": {way: _shares(turns, parts) for way, turns in seconds.items()},
        "seconds": {
            way: {part: statistics.median(spent.get(part, 0.0) for spent in turns) for part in parts}
            for way, turns in seconds.items()
        },
        "together_over_alone": statistics.median(
            sum(one.values()) / sum(other.values())
            for one, other in zip(seconds["together"], seconds["alone"], strict=True)
        ),
        "sizes": (
            f"{plan.dimension} parameters, {plan.federation.clients_per_round} clients, "
            f"{_expected(plan):.0f} records a round expected, {plan.releases['training'].modulus_bits} bits, "
            f"{plan.rounds_per_setup} rounds a set-up"
        ),
        "repetitions": repetitions,
        "note": NOTE,
    }


def _measure(settings: RunSettings, scratch: Path, meters: Mapping[str, Sequence[Meter]]) -> Plan:
    """Make the rounds of each way in turns, each counted by its own meter."""
    made: dict[str, Federation] = {}
    try:
        for way in meters:
            (scratch / way).mkdir()
            made[way] = Federation.build(settings, scratch / way, joined=way == "together")
        going = {way: made[way].rounds() for way in meters}
        for turn in zip(*meters.values(), strict=True):
            for way, meter in zip(meters, turn, strict=True):
                with _counted(meter):
                    next(going[way])
    finally:
        for federation in made.values():
            federation.ledger.close()
    return next(iter(made.values())).plan


def _expected(plan: Plan) -> float:
    """Return how many records a round draws in expectation."""
    mechanism, federation = plan.releases["training"].mechanism, plan.federation
    share = federation.clients_per_round / federation.clients
    return federation.declared_records * share * mechanism.sampling_rate


def _shares(turns: Sequence[Mapping[str, float]], parts: Sequence[str]) -> dict[str, float]:
    whole = [sum(spent.values()) for spent in turns]
    found = {
        part: statistics.median(
            spent.get(part, 0.0) / total for spent, total in zip(turns, whole, strict=True)
        )
        for part in parts
    }
    rest = statistics.median(
        1 - spent.get(GRADIENTS, 0.0) / total for spent, total in zip(turns, whole, strict=True)
    )
    return {**found, "all_but_gradients": rest}
