"""Write THREAT_MODEL.md from the claims and their committed results; nothing in it is typed by hand twice.

The document is a function of `results.json`, the claims and the adversaries; a test regenerates it and
compares.

>>> table(("a", "b"), [("1", "x | y")]).splitlines()[-1]
'| 1 | x \\\\| y |'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from secure_fed_diffusion.errors import DataError

from . import registry
from .adversary import Adversary
from .claim import Arm, Claim
from .results import stale
from .table import HEAD, cell, figure, row
from .taxonomy import ATLAS
from .trials import Result

PATH = Path(__file__).parents[1] / "THREAT_MODEL.md"

_TEXT = Path(__file__).with_name("text")


def render(results: Mapping[str, Result]) -> str:
    """Return the whole document.

    Raises:
        DataError: a claim has no result, or one that was made under other thresholds.
    """
    claims = registry.claims()
    missing = stale(claims, results)
    if missing:
        listed = "; ".join(f"{claim_id} {reason}" for claim_id, reason in missing.items())
        raise DataError(f"results.json is stale: {listed}")
    parts = [
        _text("how_to_read"),
        _text("goals"),
        _text("environment"),
        _table(claims, results),
        _text("not_provided"),
        _non_claims(claims, results),
        _text("robustness"),
        _poisoners(claims, results),
        _text("peers"),
        _peers(claims, results),
        *_adversaries(claims, results),
    ]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def write(results: Mapping[str, Result], path: Path = PATH) -> None:
    """Write the document."""
    path.write_text(render(results), encoding="utf-8")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _table(claims: Mapping[str, Claim[Any, Any]], results: Mapping[str, Result]) -> str:
    adversaries = registry.adversaries()
    rows = []
    for claim_id, claim in claims.items():
        cells = list(row(claim, results[claim_id], adversaries))
        cells[0] = f"[{claim_id}](#{claim_id.lower()})"
        rows.append(cells)
    held = sum(results[claim_id].as_written for claim_id in claims)
    promised = sum(claim.promised for claim in claims.values())
    return (
        f"## The table\n\n{held} of {len(claims)} claims came out as written: {promised} promises, "
        f"{len(claims) - promised} things that we do not promise.\n\n{table(HEAD, rows)}\n"
    )


def _text(name: str) -> str:
    return (_TEXT / f"{name}.md").read_text(encoding="utf-8")


def _non_claims(claims: Mapping[str, Claim[Any, Any]], results: Mapping[str, Result]) -> str:
    lines = ["Attacks that succeed with everything switched on:", ""]
    for claim_id, claim in claims.items():
        if not claim.promised:
            reached = cell(results[claim_id].arms[Arm.ON.value])
            lines.append(
                f"- **{claim.title}** ([{claim_id}](#{claim_id.lower()}): {claim.metric} {reached}). "
                f"{claim.statement}"
            )
    lines += ["", "And without an attack to show it:", ""]
    for adversary in registry.adversaries().values():
        lines += [f"- {adversary.title}: {sentence}." for sentence in adversary.non_claims]
    return "\n".join(lines) + "\n"


def _poisoners(claims: Mapping[str, Claim[Any, Any]], results: Mapping[str, Result]) -> str:
    rows = [
        (claim_id, claim.title, claim.metric, *(cell(results[claim_id].arms.get(arm.value)) for arm in Arm))
        for claim_id, claim in claims.items()
        if claim.adversary == "poisoner"
    ]
    return f"{table(('id', 'claim', 'metric', *(arm.value for arm in Arm)), rows)}\n"


def _peers(claims: Mapping[str, Claim[Any, Any]], results: Mapping[str, Result]) -> str:
    names = sorted({name for claim in claims.values() for name in claim.peers})
    rows = []
    for claim_id, claim in claims.items():
        if claim.peers:
            columns = results[claim_id].peers
            ours = cell(results[claim_id].arms[Arm.ON.value])
            rows.append(
                (claim_id, claim.title, claim.metric, ours, *(cell(columns.get(name)) for name in names))
            )
    return f"{table(('id', 'claim', 'metric', 'ours (on)', *names), rows)}\n"


def _adversaries(claims: Mapping[str, Claim[Any, Any]], results: Mapping[str, Result]) -> list[str]:
    parts = ["## The adversaries, claim by claim\n"]
    for name, adversary in registry.adversaries().items():
        own = {claim_id: claim for claim_id, claim in claims.items() if claim.adversary == name}
        parts.append(_adversary(adversary))
        parts += [_claim(claim, results[claim_id]) for claim_id, claim in own.items()]
    return parts


def _adversary(adversary: Adversary) -> str:
    return (
        f"### {adversary.title}\n\n"
        f"It {_sentence(adversary.capabilities)}\n\n"
        f"- After: {', '.join(adversary.assets)}.\n"
        f"- Assumed: {_sentence(adversary.assumptions)}\n"
        + (f"- Gets anyway: {_sentence(adversary.non_claims)}\n" if adversary.non_claims else "")
    )


def _claim(claim: Claim[Any, Any], result: Result) -> str:
    tags = [
        f"STRIDE: {', '.join(claim.tags.stride)}" if claim.tags.stride else "",
        f"LINDDUN: {', '.join(claim.tags.linddun)}" if claim.tags.linddun else "",
        f"ATLAS: {', '.join(f'{tag} {ATLAS[tag]}' for tag in claim.tags.atlas)}" if claim.tags.atlas else "",
    ]
    arms = "; ".join(
        f"{name} {cell(column)}" for name, column in (*result.arms.items(), *result.peers.items())
    )
    rest = ""
    if claim.dropped_assumption:
        rest = f"- Rests on (dropped in the third arm): {claim.dropped_assumption}.\n"
    limits = f"succeeds from {figure(claim.threshold.succeeds)}, fails up to {figure(claim.threshold.fails)}"
    return (
        f'#### <a id="{claim.id.lower()}"></a>{claim.id}: {claim.title}'
        f"{'' if claim.promised else ' (not promised)'}\n\n"
        f"{claim.statement}\n\n"
        f"- Asset: {claim.asset}. Defence: {claim.defence}.\n"
        f"{rest}"
        f"- Metric: {claim.metric}; {limits}, {len(result.seeds)} seeds.\n"
        f"- {_outcome(claim, result)}: {arms}.\n"
        f"- {'. '.join(tag for tag in tags if tag) or 'No tag fits'}.\n"
        f"- Source: {claim.source}. Run it: `sfd threats --only {claim.id}`"
        f"{' (long)' if claim.long else ''}.\n"
    )


def _outcome(claim: Claim[Any, Any], result: Result) -> str:
    if not result.as_written:
        return "NOT AS WRITTEN"
    return "Holds" if claim.promised else "As expected, no promise"


def _sentence(parts: Sequence[str]) -> str:
    return "; ".join(parts) + "."
