"""Run `sfd` once in this process and note what it took: seconds, and the most memory torch held on the GPU.

    python -m experiments.mnist_gpu.once NOTES run CONFIG --out DIR ...

A line is added to the file NOTES, however the run ends.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from secure_fed_diffusion import cli


def used(started: float) -> dict[str, Any]:
    """Return what this process has taken; without a GPU its bytes are None."""
    on_gpu = torch.cuda.is_available()
    return {
        "seconds_of_this_call": round(time.perf_counter() - started, 1),
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "gpu_peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024),
    }


def main() -> None:
    """Run, and add the line."""
    notes, started = Path(sys.argv[1]), time.perf_counter()
    sys.argv = ["sfd", *sys.argv[2:]]
    try:
        cli.main()
    finally:
        with notes.open("a", encoding="utf-8") as file:
            file.write(json.dumps(used(started)) + "\n")


if __name__ == "__main__":
    main()
