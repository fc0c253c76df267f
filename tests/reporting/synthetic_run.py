"""A synthetic run's folder: a real configuration, and invented numbers in the shape that a run writes."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from PIL import Image

from secure_fed_diffusion import config

BASE = Path(__file__).parents[2] / "experiments" / "quickstart" / "config.toml"
MODES = ("none", "central", "local", "distributed", "client")


def nested(value: float | None, mode: str) -> dict[str, dict[str, float | None]]:
    """Return ε by view for one total."""
    factors = {"raw_update": 6.1, "sum_c1": 1.0, "sum_c0": 0.93, "released_model": 0.93}
    if value is None:
        return {view: {"pld": None, "rdp": None} for view in factors}
    if mode == "central":
        return {
            "raw_update": {"pld": None, "rdp": None},
            "released_model": {"pld": value, "rdp": 1.1 * value},
        }
    return {view: {"pld": f * value, "rdp": 1.1 * f * value} for view, f in factors.items()}


def record(index: int, *, rounds: int, mode: str) -> dict[str, Any]:
    """Return one line of metrics.jsonl."""
    draw = random.Random(index)
    private = mode != "none"
    spent = 9.94 * math.sqrt((index + 1) / (rounds + 1)) if private else None
    missing = {"7": "masked_input"} if index % 9 == 4 else {}
    line: dict[str, Any] = {
        "round": index,
        "kind": "prototypes" if index == 0 else "gradient",
        "mode": mode,
        "epsilon": nested(spent, mode) if private else None,
        "delta": 1e-5 if private else None,
        "unit": "example" if private else None,
        "relation": "add_remove" if private else None,
        "budget_epsilon": 10.0 if private else None,
        "guard_view": ("released_model" if mode == "central" else "sum_c1") if private else None,
        "attempt": 0,
        "cohort": [0, 1, 2, 4, 6, 7],
        "survivors": [0, 1, 2, 4, 6] if missing else [0, 1, 2, 4, 6, 7],
        "dropped": missing,
        "holdout_loss": 0.2 + 0.8 * math.exp(-index / 9) + 0.02 * draw.random(),
        "training_loss": 0.123456,
        "bytes_up": 1_380_000 + draw.randrange(9000),
        "bytes_down": 1_620_000 + draw.randrange(9000),
        "seconds": {"clients": 1.2 + draw.random() / 4, "secure_aggregation": 0.21, "server": 0.03},
    }
    if index % 5 == 0 or index == rounds:
        line["seconds"]["evaluation"] = 2.4 + draw.random()
        line["fid_lenet84_digits"] = 11 + 140 * math.exp(-index / 8)
        line["prototype_accuracy"] = 0.93 - 0.6 * math.exp(-index / 7)
        line["tstr_cnn"] = 0.885 - 0.55 * math.exp(-index / 9)
    return line


def grid(path: Path, sharpness: float) -> None:
    """Write a PNG with ten rows of eight 8x8 tiles."""
    draw = random.Random(7)
    image = Image.new("L", (8 * 9, 10 * 9))
    for y in range(image.height):
        for x in range(image.width):
            shape = 255 * ((x % 9) in (2, 3, 4) and 1 <= (y % 9) <= 7 and (x + y // 9) % 3 > 0)
            image.putpixel((x, y), int(sharpness * shape + (1 - sharpness) * draw.randrange(256)))
    image.save(path)


def set_in(folder: Path, *overrides: str) -> None:
    """Change keys of a run's configuration."""
    path = folder / "config.toml"
    path.write_text(config.dump(config.load(path, overrides)))


def write_run(folder: Path, *, mode: str = "distributed", rounds: int = 40) -> Path:
    """Write a complete, finished run and return its folder."""
    samples = folder / "samples"
    samples.mkdir(parents=True)
    changes = [f"privacy.mode={mode}", *(f"modes.{each}.rounds={rounds}" for each in MODES)]
    (folder / "config.toml").write_text(config.dump(config.load(BASE, changes)))
    lines = [record(i, rounds=rounds, mode=mode) for i in range(rounds + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "ledger.jsonl").write_text("".join(f'{{"charge": {i}}}\n' for i in range(6 * (rounds + 1))))
    for index in sorted({*range(0, rounds + 1, 5), rounds}):
        grid(samples / f"round_{index:04d}.png", index / rounds)
    private = mode != "none"
    summary = {
        "mode": mode,
        "target_epsilon": 10.0 if private else None,
        "plan_epsilon": nested(9.99, mode) if private else None,
        "epsilon": lines[-1]["epsilon"],
        "delta": lines[-1]["delta"],
        "unit": lines[-1]["unit"],
        "relation": lines[-1]["relation"],
        "accountants": ["pld", "rdp"],
        "class_names": [str(i) for i in range(10)],
        "noise_overhead": math.sqrt(5 / 4),
        "floor": {"fid_floor_lenet84_digits": 1.7},
        "metrics": {key: lines[-1][key] for key in ("fid_lenet84_digits", "prototype_accuracy", "tstr_cnn")},
        "clients": 8,
        "clients_per_round": 6,
        "colluders": 1,
        "parameters": 61_234,
        "seconds": 123.0,
        "seconds_by_part": {"clients": 53.0, "secure_aggregation": 8.6, "server": 1.2, "evaluation": 26.1},
        "finished": True,
        "ledger_head": "5f" * 32,
        "statement": "The server together with 1 of the clients, and whoever holds the models.",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    draw = random.Random(3)
    flat = [0] * 64
    for _ in range(61_234):
        flat[draw.randrange(64)] += 1
    bell = [round(4000 * math.exp(-(((i - 31.5) / 9) ** 2) / 2)) for i in range(64)]
    histograms = {
        "masked_histogram": {"bin_edges": [i * 2**24 / 64 for i in range(65)], "counts": flat},
        "sum_histogram": {"bin_edges": [(i - 32) * 300 for i in range(65)], "counts": bell},
    }
    view = {
        "round": rounds,
        "client_id": 2,
        "phases": [
            {"phase": "advertise", "frames": 6, "bytes": 480, "content": "two one-time public keys"},
            {"phase": "share_keys", "frames": 6, "bytes": 6120, "content": "shares sealed for other clients"},
            {"phase": "masked_input", "frames": 6, "bytes": 1_150_000, "content": "the masked vector"},
            {"phase": "consistency", "frames": 5, "bytes": 420, "content": "signatures over the survivors"},
            {"phase": "unmask", "frames": 5, "bytes": 1900, "content": "shares of one secret per client"},
        ],
        "learned": [
            "The sum of the survivors' clipped and noised gradients.",
            "Who took part, and who went missing when.",
        ],
        "never": [
            "Any single client's gradient, clipped or not.",
            "Any image, label or class count of a client.",
        ],
        **(histograms if private else {}),
    }
    (folder / "server_view.json").write_text(json.dumps(view))
    return folder
