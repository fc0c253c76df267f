"""How many synthetic images TSTR needs: one released model, samples of several sizes, the same classifier.

    SFD_DATA_DIR=/path/to/data python -m experiments.mnist_cpu.samples RUN [--sizes 2000 10000 60000]

A TSTR accuracy depends on how many images the classifier saw, and experiments differ in that.  The
samples are nested: a smaller one is a random part of the larger.  Drawing more is post-processing and free of
privacy cost.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.command import finish
from experiments.results import into_readme, origin
from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import ImageSet, load
from secure_fed_diffusion.diffusion.sampler import load_pipeline
from secure_fed_diffusion.evaluation.tstr import accuracy_interval, train_synthetic_test_real

HERE = Path(__file__).parent
SIZES = (2_000, 10_000, 60_000)


def drawn(run: Path, n: int, n_classes: int, seed: int) -> ImageSet:
    """Return `n` images of a run's released model, as many of each class, in random order."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(n) % n_classes)
    pipeline = load_pipeline(run / "model")
    images = pipeline(labels, generator=torch.Generator().manual_seed(seed), output_type="np").images
    return ImageSet((images.transpose(0, 3, 1, 2) * 255).round().astype(np.uint8), labels)


def measure(run: Path, sizes: Sequence[int], *, epochs: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return TSTR at each size, with its 95 % interval over the test images."""
    settings = config.load(run / "config.toml")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    dataset = load(settings.data)
    began = time.perf_counter()
    images = drawn(run, max(sizes), dataset.n_classes, seed)
    sampling = time.perf_counter() - began
    records = []
    for n in sorted(sizes):
        began = time.perf_counter()
        part = images.subset(slice(0, n))
        accuracy = train_synthetic_test_real(part, dataset.test, dataset.n_classes, epochs=epochs)
        records.append(
            {
                "data": dataset.name,
                "mode": summary["mode"],
                "epsilon": summary["target_epsilon"],
                "samples": n,
                "epochs": epochs,
                "tstr_cnn": accuracy,
                "tstr_cnn_interval": list(accuracy_interval(accuracy, len(dataset.test))),
                "seconds_sampling": round(sampling * n / max(sizes), 1),
                "seconds_classifier": round(time.perf_counter() - began, 1),
            }
        )
        print(records[-1], flush=True)
    return records


def markdown(results: Mapping[str, Any]) -> str:
    """Return the table."""
    lines = [
        f"`{results['command']}` at commit {results['commit']}, {results['machine']}:",
        "",
        "| data | mode | ε | samples | TSTR, CNN | 95 % interval | minutes, sampling + classifier |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results["records"]:
        low, high = r["tstr_cnn_interval"]
        lines.append(
            f"| {r['data']} | {r['mode']} | {r['epsilon']:g} | {r['samples']:,} | "
            f"{100 * r['tstr_cnn']:.1f} % | {100 * low:.1f} to {100 * high:.1f} | "
            f"{r['seconds_sampling'] / 60:.1f} + {r['seconds_classifier'] / 60:.1f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure one run and write the results and the README's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--epochs", type=int, default=50, help="of the classifier; DPDM's 50")
    parser.add_argument("--results", type=Path, default=HERE / "samples_results.json")
    arguments = parser.parse_args(argv)
    results = {
        **origin("experiments.mnist_cpu.samples", sys.argv[1:] if argv is None else argv),
        "records": measure(arguments.run, arguments.sizes, epochs=arguments.epochs),
    }
    arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.results.parent == HERE:
        into_readme(HERE / "README.md", "samples", markdown(results))


if __name__ == "__main__":
    finish(main)
