"""A small coverage-guided fuzzer: it keeps each input that reaches a line of `secagg` for the first time.

`fuzz` mutates inputs of a growing corpus, runs the target under `sys.settrace`, and lets nothing but
this package's own errors through.  The budget is a number of executions; the same seed gives the same
run.  Not a replacement for a compiled fuzzer: some 10^3 executions a second.
"""

from __future__ import annotations

import json
import struct
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import SecureFedDiffusionError

FOLDER = str(Path(secagg.__file__).parent)
MAX_BYTES = 1 << 12
NUMBERS = (0, 1, 2, 3, 4, 5, 31, 32, 33, 64, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1)

Mutator = Callable[[bytes, Sequence[bytes], Random], bytes]


@dataclass
class Report:
    """What a fuzz came to."""

    executions: int = 0
    lines: set[tuple[str, int]] = field(default_factory=set)
    corpus: list[bytes] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        ends = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common())
        return f"{self.executions} executions, {len(self.lines)} lines, corpus {len(self.corpus)}: {ends}"


class Tracer:
    """Collects the lines of `secagg` that one execution reaches."""

    def __init__(self) -> None:
        self.reached: set[tuple[CodeType, int]] = set()
        self._ours: dict[CodeType, bool] = {}

    def enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Trace the frames of `secagg` alone."""
        code = frame.f_code
        ours = self._ours.get(code)
        if ours is None:
            ours = self._ours[code] = code.co_filename.startswith(FOLDER)
        return self._line if ours else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.reached.add((frame.f_code, frame.f_lineno))
        return self._line


def fuzz(
    target: Callable[[bytes], object],
    seeds: Sequence[bytes],
    *,
    executions: int,
    seed: int = 0,
    mutate: Mutator | None = None,
) -> Report:
    """Run `target` on the seeds and on mutations; any error outside the package's tree ends it."""
    rng, tracer, report = Random(seed), Tracer(), Report()
    mutate = mutate or mutate_bytes
    known: set[tuple[CodeType, int]] = set()
    outer = sys.gettrace()
    queue = list(seeds)
    for count in range(executions):
        if count < len(queue):
            data = queue[count]
        else:
            data = mutate(rng.choice(report.corpus or queue), report.corpus or queue, rng)
        tracer.reached = set()
        sys.settrace(tracer.enter)
        try:
            target(data)
            ending = "accepted"
        except SecureFedDiffusionError as error:
            ending = type(error).__name__
        except Exception as error:
            sys.settrace(outer)
            raise AssertionError(f"{type(error).__name__} on {data.hex()}") from error
        finally:
            sys.settrace(outer)
        report.outcomes[ending] += 1
        if not tracer.reached <= known:
            known |= tracer.reached
            report.corpus.append(data)
    report.executions = executions
    report.lines = {(Path(code.co_filename).name, line) for code, line in known}
    return report


def mutate_bytes(data: bytes, corpus: Sequence[bytes], rng: Random) -> bytes:
    """One to four changes: bits, bytes, numbers, blocks, a crossing with another input, the length field."""
    spoilt = bytearray(data)
    for _ in range(1 << rng.randrange(3)):
        n = len(spoilt)
        deed = rng.randrange(9)
        at = rng.randrange(n + 1)
        if deed == 0 and n:
            spoilt[at % n] ^= 1 << rng.randrange(8)
        elif deed == 1 and n:
            spoilt[at % n] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif deed == 2:
            del spoilt[at : at + rng.choice((1, 2, 4, 8, 33, 64, n))]
        elif deed == 3:
            spoilt[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8, 16, 33, 36, 68)))
        elif deed == 4:
            block = spoilt[at : at + rng.choice((1, 4, 33, 37, 68, 86))]
            into = rng.randrange(n + 1)
            spoilt[into:into] = block
        elif deed == 5:
            width = rng.choice(("<B", "<H", "<I", "<Q"))
            number = struct.pack(width, rng.choice(NUMBERS) & ((1 << 8 * struct.calcsize(width)) - 1))
            spoilt[at : at + len(number)] = number
        elif deed == 6:
            other = rng.choice(corpus)
            spoilt[at:] = other[rng.randrange(len(other) + 1) :]
        elif deed == 7 and n >= 18:
            spoilt[10:18] = struct.pack("<Q", max(0, n - 50))
        elif deed == 8 and n:
            spoilt[at : at + rng.choice((1, 4, 32))] = bytes(rng.choice((1, 4, 32)))
    return bytes(spoilt[:MAX_BYTES])


def mutate_json(data: bytes, corpus: Sequence[bytes], rng: Random) -> bytes:
    """Change one place of a JSON document, or its bytes."""
    if rng.randrange(4) == 0:
        return mutate_bytes(data, corpus, rng)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, corpus, rng)
    for _ in range(1 << rng.randrange(2)):
        document = _change(document, rng)
    return json.dumps(document).encode()


_ODD = (None, True, -1, 0, 1.5, 10**30, "", "zz", "00", "1", [], [1, 2], ["0"], {}, {"0": []}, {"x": "y"})


def _change(node: Any, rng: Random) -> Any:
    if not isinstance(node, dict | list) or not node or rng.randrange(8) == 0:
        if isinstance(node, str) and node and rng.randrange(2):
            at = rng.randrange(len(node))
            return rng.choice((node[:at], node + node[at:], node[:at] + "0" + node[at + 1 :], node.upper()))
        if isinstance(node, int) and rng.randrange(2):
            return node + rng.choice((-1, 1))
        return rng.choice(_ODD)
    changed = node.copy()
    key: Any = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
    deed = rng.randrange(8)
    if deed == 0:
        del changed[key]
    elif deed == 1 and isinstance(changed, dict):
        changed[rng.choice(("0", "7", "-1", "x", key + "0"))] = changed.pop(key)
    elif deed == 1:
        changed.append(changed[key])
    else:
        changed[key] = _change(changed[key], rng)
    return changed
