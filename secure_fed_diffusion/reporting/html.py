"""Writes a run's `report.html`: one file that opens offline and requests nothing.

Everything is inside: figures as SVG with their numbers, samples as data URIs; `page` has the script and the
policy that admits no other, so text from a configuration can neither run nor load anything.  A run in
progress, or one of another mode, leaves out what it has not got and says so.

The report shows what the run wrote; it checks nothing.  `sfd audit` does.

    write_report(Path("runs/first"))          # runs/first/report.html
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from secure_fed_diffusion.dp.realised import SPENT_ASSUMPTION
from secure_fed_diffusion.reporting import wording
from secure_fed_diffusion.reporting.attacks import AttackSection, read_attacks
from secure_fed_diffusion.reporting.audit_figure import audit_figure
from secure_fed_diffusion.reporting.figures import run_figures
from secure_fed_diffusion.reporting.metric_rows import metric_rows
from secure_fed_diffusion.reporting.page import render_page, save_page
from secure_fed_diffusion.reporting.run_folder import RunFolder, is_metric, read_run

_MOST_GRIDS = 24  # more would make the file heavy and the slider coarse


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run's folder, finished or not, and return its path.

    Raises: RunError when the folder holds no configuration or a file in it cannot be read.
    """
    run = read_run(run_dir)
    attacks = read_attacks(run_dir)
    # attack figures are private
    return save_page(render(run, attacks), run_dir / "report.html", private=attacks is not None)


def render(run: RunFolder, attacks: AttackSection | None = None) -> str:
    """Return the report of a run as one HTML document, with the section on attacks where there is one."""
    epsilon, accountant = run.guarantee
    spent, _ = wording.bound(run.epsilon, run.guard_view)
    audit = audit_figure(run)
    figures = run_figures(run) + (() if audit is None else (audit,))
    return render_page(
        "report.html.j2",
        run=run,
        protected=run.mode != "none",
        mode_words=wording.MODES.get(run.mode, "a mode that this report does not know"),
        epsilon=epsilon,
        spent=spent,
        assumption=SPENT_ASSUMPTION,
        accountant=accountant,
        meaning=_meaning(run, epsilon),
        views=_view_rows(run),
        tiles=_tiles(run),
        metrics=metric_rows(run.metrics, run.newest),
        figures=figures,
        attacks=attacks,
        figure_by_name={figure.name: figure for figure in figures},
        grids=choose_grids(run, _MOST_GRIDS),
        all_grids=len(run.samples),
        tables=list(config_tables(run.config)),
        phases=[phase for phase in run.server_view.get("phases") or () if isinstance(phase, Mapping)],
        rounds=[_round_row(line) for line in run.rounds],
        last_round=int(run.rounds[-1]["round"]) if run.rounds else None,
    )


def _meaning(run: RunFolder, epsilon: float | None) -> str | None:
    if epsilon is None or run.mode == "none":
        return None
    return wording.meaning(
        epsilon,
        delta=run.fact("delta"),
        unit=run.fact("unit"),
        relation=run.fact("relation"),
        view=run.guard_view or "",
    )


def _view_rows(run: RunFolder) -> list[dict[str, Any]]:
    return [
        {
            "view": view,
            "name": wording.view_name(view),
            "adversary": wording.adversary(view),
            "pld": wording.pick(run.plan_epsilon, view, "pld"),
            "rdp": wording.pick(run.plan_epsilon, view, "rdp"),
            "spent_pld": wording.pick(run.epsilon, view, "pld"),
            "spent_rdp": wording.pick(run.epsilon, view, "rdp"),
            "guarded": view == run.guard_view,
        }
        for view in run.epsilon
    ]


def _tiles(run: RunFolder) -> list[dict[str, str]]:
    """Return the headline's measured figures: words, value, note."""
    tiles = []
    if run.fid_key:
        value, floor = run.metrics[run.fid_key], run.fid_floor
        note = (
            f"floor {wording.figure_text(floor)}: real against real"
            if floor is not None
            else "no floor measured"
        )
        tiles.append(
            {
                "words": "FID",
                "value": wording.figure_text(value),
                "note": f"{run.fid_key.removeprefix('fid_')} features; {note}",
            }
        )
    if "prototype_accuracy" in run.metrics:
        value_text = wording.percent_text(run.metrics["prototype_accuracy"])
        note = "real test images, nearest mean of the samples"
        tiles.append({"words": "Prototype accuracy", "value": value_text, "note": note})
    for key in run.metrics:
        if key.startswith("tstr_"):
            note = f"{key.removeprefix('tstr_')} trained on samples, tested on real images"
            tiles.append(
                {"words": "TSTR accuracy", "value": wording.percent_text(run.metrics[key]), "note": note}
            )
    return tiles


def choose_grids(run: RunFolder, most: int) -> list[dict[str, Any]]:
    """Return at most `most` sample grids, the last among them, and the first where there is room."""
    n = len(run.samples)
    chosen = (
        [n - 1]
        if most == 1 and n
        else range(n)
        if n <= most
        else sorted({round(i * (n - 1) / (most - 1)) for i in range(most)})
    )
    return [
        {
            "round": run.samples[i][0],
            "label": "after the warm-up release"
            if run.samples[i][0] == 0
            else f"after round {run.samples[i][0]}",
            "facts": _grid_facts(run, run.samples[i][0]),
            "data": base64.b64encode(run.samples[i][1].read_bytes()).decode(),
        }
        for i in chosen
    ]


def _grid_facts(run: RunFolder, index: int) -> list[tuple[str, str]]:
    """Return what the round that drew a grid had cost and reached."""
    line = next((line for line in run.rounds if line["round"] == index), {})
    spent, _ = wording.bound(line.get("epsilon"), run.guard_view)
    facts = (
        [(f"ε spent, {wording.view_name(run.guard_view)}", wording.epsilon_text(spent))]
        if run.guard_view
        else []
    )
    return facts + [
        (wording.metric_name(key), _metric_text(key, line[key])) for key in line if is_metric(key)
    ]


def _metric_text(key: str, value: Any) -> str:
    return wording.metric_value(key, value)


def config_tables(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Yield (dotted table name, its own keys), tables in the order of the file."""
    plain = [(key, value) for key, value in config.items() if not isinstance(value, Mapping)]
    if plain:
        yield prefix, plain
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from config_tables(value, f"{prefix}.{key}" if prefix else key)


def _round_row(line: Mapping[str, Any]) -> dict[str, Any]:
    view = line.get("guard_view")
    epsilon, _ = wording.bound(line.get("epsilon"), view)
    dropped = line.get("dropped") or {}
    return {
        "round": line["round"],
        "kind": line.get("kind") or "–",
        "attempt": line.get("attempt", "–"),
        "epsilon": epsilon,
        "survivors": f"{len(line.get('survivors') or ())}/{len(line['cohort'])}"
        if line.get("cohort")
        else "–",
        "dropped": ", ".join(f"{client} before {phase}" for client, phase in dropped.items()) or "–",
        "holdout_loss": line.get("holdout_loss"),
        "metrics": [
            f"{wording.metric_name(key)} {_metric_text(key, line[key])}" for key in line if is_metric(key)
        ],
    }
