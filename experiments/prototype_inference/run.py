"""Train, aggregate prototypes, compare the rules of inference; write `results.json`, figure and table.

    SFD_DATA_DIR=/path/to/data python -m experiments.prototype_inference.run [--set mnist]
        [--labels "2 classes a client"] [--synthetic mnist=runs/some-run] [--draw]

`--synthetic` adds prototypes of images drawn from a run's released model.  Every cell (data set, skew,
method, seed) is one file under `--out` and is not computed again, its trained weights are another and serve
whatever else is compared on them; cells run two at a time, one thread each.
`results.json` keeps the records of the data sets, and of the ways to deal out labels, that a call leaves out.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from experiments.command import finish, worker_pool
from experiments.prototype_inference import figure, masked, table
from experiments.prototype_inference.federated import (
    Classifier,
    Recipe,
    embeddings,
    head_predictions,
    train,
)
from experiments.results import into_readme, origin
from secure_fed_diffusion.data.datasets import Dataset, ImageSet, load
from secure_fed_diffusion.data.partition import partition
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.diffusion.sampler import load_pipeline
from secure_fed_diffusion.evaluation.prototypes import class_prototypes, nearest_prototype

HERE = Path(__file__).parent
SYNTHETIC_PER_CLASS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training and everything that is compared on it."""

    data: DataSettings
    heterogeneity: str
    clients: int
    method: str
    recipe: Recipe
    seed: int
    epsilons: tuple[float, ...]
    delta: float
    colluders: int
    synthetic: str | None

    @property
    def name(self) -> str:
        """Name the cell's file: its values, and the code that computes it."""
        code = b"".join((HERE / name).read_bytes() for name in ("federated.py", "masked.py"))
        return self._named(json.dumps(asdict(self), sort_keys=True).encode() + code)

    def weights(self, hospitals: Sequence[ImageSet]) -> str:
        """Name the file of its trained weights: what hospitals hold, the recipe, the code that trains."""
        recipe = json.dumps([asdict(self.recipe), self.seed], sort_keys=True).encode()
        held = b"".join(
            sha256(part.images.tobytes() + part.labels.astype(np.int64).tobytes()).digest()
            for part in hospitals
        )
        return self._named(recipe + held + (HERE / "federated.py").read_bytes())

    def _named(self, content: bytes) -> str:
        return f"{self.data.name}-{self.method}-{self.seed}-{sha256(content).hexdigest()[:12]}"


def compute(cell: Cell, out: Path) -> dict[str, Any]:
    """Train the classifier, or take what is trained; return one cell's accuracies in [0, 1] and bytes."""
    torch.set_num_threads(1)
    dataset = load(cell.data)
    parts = partition(
        dataset.train.labels,
        cell.clients,
        scheme=cell.data.partition,
        beta=cell.data.beta,
        classes_per_client=cell.data.classes_per_client,
        seed=cell.seed,
    )
    hospitals = [dataset.train.subset(part) for part in parts]
    model = trained(cell, dataset, hospitals, out / f"{cell.weights(hospitals)}.safetensors")
    features = [embeddings(model, hospital) for hospital in hospitals]
    labels = [hospital.labels for hospital in hospitals]
    test = embeddings(model, dataset.test)

    def accuracy(prototypes: masked.Floats) -> float:
        return float((nearest_prototype(test, prototypes) == dataset.test.labels).mean())

    together = masked.exact(features, labels, dataset.n_classes)
    figures = {
        "accuracy_head": float((head_predictions(model, test) == dataset.test.labels).mean()),
        "accuracy_prototypes": accuracy(together.prototypes),
    }
    # Public: a row whose embedding has the median norm of the public images' keeps its length.
    norm = float(np.median(np.linalg.norm(embeddings(model, dataset.public), axis=1)))
    for epsilon in cell.epsilons:
        released = masked.private(
            features,
            labels,
            dataset.n_classes,
            clip_norm=norm / math.sqrt(1 - masked.COUNT_SHARE**2),
            epsilon=epsilon,
            delta=cell.delta,
            colluders=cell.colluders,
        )
        figures[f"accuracy_prototypes_epsilon_{epsilon:g}"] = accuracy(released.prototypes)
    if cell.synthetic is not None:
        drawn = synthetic(Path(cell.synthetic), dataset.n_classes)
        centres = class_prototypes(embeddings(model, drawn), drawn.labels, dataset.n_classes)
        figures["accuracy_prototypes_synthetic"] = accuracy(centres)
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "data": cell.data.name,
        "heterogeneity": cell.heterogeneity,
        "method": cell.method,
        "clients": cell.clients,
        "repetition": cell.seed,
        "delta": cell.delta,
        "unit": "example",
        "view": f"sum_c{cell.colluders}",
        **figures,
        "bytes_model_all_rounds": 2 * 4 * parameters * cell.recipe.rounds,  # float32, down and up
        "bytes_prototypes_up": together.bytes_up,
        "bytes_prototypes_down": together.bytes_down + 8 * together.prototypes.size,  # and the result
    }


def trained(cell: Cell, dataset: Dataset, hospitals: list[ImageSet], weights: Path) -> Classifier:
    """Return the cell's global model, trained once: what is compared on it may grow later."""
    if weights.exists():
        model = Classifier(dataset.image_shape, dataset.n_classes, cell.recipe.embedding)
        model.load_state_dict(load_file(weights))
        return model.to(memory_format=torch.channels_last).eval()
    model = train(
        hospitals,
        cell.recipe,
        image_shape=dataset.image_shape,
        n_classes=dataset.n_classes,
        seed=cell.seed,
    )
    fresh = weights.with_suffix(f".{os.getpid()}")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, fresh)
    fresh.replace(weights)
    return model


@functools.cache  # the same images serve every cell of a process
def synthetic(run: Path, n_classes: int) -> ImageSet:
    """Draw images from a run's released model: post-processing of what that run paid for."""
    pipeline = load_pipeline(run / "model")
    labels = np.repeat(np.arange(n_classes), SYNTHETIC_PER_CLASS)
    drawn = pipeline(labels, generator=torch.Generator().manual_seed(0), output_type="np").images
    return ImageSet((drawn.transpose(0, 3, 1, 2) * 255).round().astype(np.uint8), labels)


def cells(
    settings: dict[str, Any], sets: Sequence[str], labels: Sequence[str], synthetic_runs: dict[str, str]
) -> list[Cell]:
    """Return the grid of the configuration, for the data sets and the ways to deal out labels chosen.

    A way may have keys of `[training]` of its own for a data set, as a smaller step size.
    """
    return [
        Cell(
            data=DataSettings(
                name=name,
                train_limit=chosen_set["train_limit"],
                **{key: value for key, value in skew.items() if key not in {"name", "training"}},
            ),
            heterogeneity=skew["name"],
            clients=settings["clients"],
            method=method,
            recipe=replace(
                Recipe(
                    rounds=chosen_set["rounds"],
                    local_epochs=chosen_set["local_epochs"],
                    **{**settings["training"], **skew.get("training", {}).get(name, {})},
                ),
                prox_mu=settings["training"]["prox_mu"] if method == "fedprox" else 0.0,
            ),
            seed=seed,
            epsilons=tuple(settings["epsilons"]),
            delta=settings["delta"],
            colluders=settings["colluders"],
            synthetic=synthetic_runs.get(name),
        )
        for name, chosen_set in settings["sets"].items()
        if name in sets
        for skew in settings["heterogeneity"]
        if skew["name"] in labels
        for method in ("fedavg", "fedprox")
        for seed in settings["seeds"]
    ]


def measured(cell: Cell, out: Path) -> dict[str, Any]:
    """Return a cell's record: from its file, or computed and written there."""
    path = out / f"{cell.name}.json"
    if not path.exists():
        record = compute(cell, out)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(record), encoding="utf-8")
        fresh.replace(path)
    record = json.loads(path.read_text(encoding="utf-8"))
    return dict(record)


def merged(
    before: Mapping[str, Any], made: Mapping[str, str], records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the results with these records, and what made them, in place of those of the same settings."""
    settings: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in before.get("records", ()):
        settings.setdefault((record["data"], record["heterogeneity"]), []).append(record)
    origins = {name: dict(by_labels) for name, by_labels in before.get("origins", {}).items()}
    for name, labels in dict.fromkeys((record["data"], record["heterogeneity"]) for record in records):
        settings[name, labels] = []
        origins.setdefault(name, {})[labels] = dict(made)
    for record in records:
        settings[record["data"], record["heterogeneity"]].append(record)
    records = [record for kept in settings.values() for record in kept]
    return {**made, "origins": origins, "records": records}  # first what the last call was


def main() -> None:
    """Compute what is not there yet, write the results, draw the figure, put the table into the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, default=HERE / "grid.toml")
    parser.add_argument("--out", type=Path, default=Path("runs/prototype_inference"))
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--set", action="append", dest="sets", help="one of the data sets (default: all)")
    parser.add_argument("--labels", action="append", help="one of the ways to deal them out (default: all)")
    parser.add_argument("--synthetic", action="append", default=[], metavar="SET=RUN")
    parser.add_argument("--draw", action="store_true", help="figure and README from the results alone")
    arguments = parser.parse_args()
    if not arguments.draw:
        settings = tomllib.loads(arguments.config.read_text(encoding="utf-8"))
        ways = [way["name"] for way in settings["heterogeneity"]]
        sets, labels = arguments.sets or list(settings["sets"]), arguments.labels or ways
        for option, known, chosen in (("--set", settings["sets"], sets), ("--labels", ways, labels)):
            if unknown := sorted(set(chosen) - set(known)):
                parser.error(f"{option}: expected one of {', '.join(known)}, got {unknown[0]}")
        grid = cells(settings, sets, labels, dict(pair.split("=", 1) for pair in arguments.synthetic))
        arguments.out.mkdir(parents=True, exist_ok=True)
        # Asked first: the commit is that of the code that computes.
        made = origin("experiments.prototype_inference.run", sys.argv[1:])
        started, records = time.perf_counter(), []
        with worker_pool(min(2, os.cpu_count() or 1)) as pool:
            for done, record in enumerate(pool.map(measured, grid, [arguments.out] * len(grid)), start=1):
                records.append(record)
                minutes = (time.perf_counter() - started) / 60
                print(
                    f"{done}/{len(grid)} {record['data']}, {record['heterogeneity']}, {record['method']}: "
                    f"head {record['accuracy_head']:.3f}, prototypes {record['accuracy_prototypes']:.3f} "
                    f"({minutes:.1f} min)",
                    flush=True,
                )
        found = merged(
            json.loads(arguments.results.read_text(encoding="utf-8")) if arguments.results.exists() else {},
            made,
            records,
        )
        arguments.results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(figure.draw(arguments.results, arguments.results.with_name("figure.png")))
    if arguments.results == HERE / "results.json":
        found = json.loads(arguments.results.read_text(encoding="utf-8"))
        into_readme(HERE / "README.md", "results", table.markdown(found))


if __name__ == "__main__":
    finish(main)
