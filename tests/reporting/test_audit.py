"""An audit as people see it: rows in a log and on a terminal, a drawing, and a section of the report."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from secure_fed_diffusion.audit.report import NO_CANARIES, FolderAudit, audit_folder
from secure_fed_diffusion.dp import verify
from secure_fed_diffusion.reporting.audit_console import print_audit
from secure_fed_diffusion.reporting.audit_figure import audit_figure, lower_text, plot_audit
from secure_fed_diffusion.reporting.html import write_report
from secure_fed_diffusion.reporting.run_folder import read_run
from tests.audit.audited_folder import ROUNDS, write_folder

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def audited(folder: Path) -> FolderAudit:
    return audit_folder(folder, verify(folder / "ledger.jsonl"))


@pytest.fixture(scope="module")
def correct(tmp_path_factory: pytest.TempPathFactory) -> FolderAudit:
    return audited(write_folder(tmp_path_factory.mktemp("audits") / "correct", rounds=ROUNDS))


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> FolderAudit:
    return audited(write_folder(tmp_path_factory.mktemp("audits") / "broken", rounds=2, noise=0.5))


def printed(audit: FolderAudit, *, terminal: bool = False) -> str:
    stream = io.StringIO()
    print_audit(audit, Console(file=stream, force_terminal=terminal, width=220, color_system=None))
    return stream.getvalue()


def bound(value: float, after_round: int) -> dict[str, object]:
    return {
        "value": value,
        "confidence": 0.95,
        "delta": 1e-5,
        "auditor": "A1 likelihood ratio",
        "view": "sum_c0",
        "upper_view": "sum_c0",
        "after_round": after_round,
        "canaries": 200,
        "conditional_on": "the coins are fair",
    }


def with_canaries(folder: Path, *, accused: list[str], a_round: float = 0.05) -> Path:
    """Give a synthetic run the lines and the summary that a run with canaries has."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["epsilon_lower"] = bound(a_round * line["round"], line["round"]) if line["round"] else None
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((folder / "summary.json").read_text())
    summary["audit"] = {
        "accused": accused,
        "smallest_violation": {"noise_shortfall": 0.0612, "oversampling": 0.25, "power": 0.95},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_lower_bound_is_rounded_down() -> None:
    assert lower_text(1.2399) == "1.23"


@pytest.mark.parametrize("terminal", [False, True])
def test_every_round_is_a_row_with_both_bounds_the_verdict_and_the_smallest_violation(
    correct: FolderAudit, terminal: bool
) -> None:
    text = printed(correct, terminal=terminal)
    last = correct.rounds[-1]
    assert last.lower is not None
    row = next(line for line in text.splitlines() if re.match(rf"\W*{last.number}\W", line))
    assert lower_text(last.lower.epsilon) in row
    assert "passed" in row
    assert "of 2e+06" in row  # the e-value against its alarm
    assert re.search(r"noise −[\d.]+ %, rate \+\d+ %", row)
    assert row.count(" / ") == 2  # PLD and RDP in each of the two views
    assert "audit: passed" in text
    assert "at least (95 %)" in text
    warm_up = next(line for line in text.splitlines() if re.match(r"\W*1\W", line))
    assert "no canaries" in warm_up


def test_a_log_holds_no_control_character(correct: FolderAudit) -> None:
    assert not CONTROL.search(printed(correct))


def test_an_accusation_is_printed_by_name(broken: FolderAudit) -> None:
    text = printed(broken)
    assert "audit: failed" in text
    assert "  accused by A0 noise variance (from round 2)" in text
    assert "  accused by A6 too little noise (from round 2)" in text


def test_without_canaries_the_rows_end_with_the_upper_bounds_and_a_sentence_says_why(tmp_path: Path) -> None:
    text = printed(audited(write_folder(tmp_path / "run", rounds=2, canaries=0)))
    assert "audit: not checked" in text
    assert NO_CANARIES in text
    assert "at least" not in text.split("audit:")[0]


@pytest.mark.parametrize("which", ["correct", "broken"])
def test_the_drawing_is_one_svg_that_loads_nothing(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = plot_audit(request.getfixturevalue(which), tmp_path / "audit.svg")
    text = path.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    loaded = re.findall(r'(?:href|src)="([^"#][^"]*)"|url\(([^#)][^)]*)\)', text)
    assert loaded == []


def test_the_same_audit_gives_the_same_drawing(correct: FolderAudit, tmp_path: Path) -> None:
    one, two = (plot_audit(correct, tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two


def test_the_report_draws_the_lower_bound_under_the_upper_one(new_run: Callable[..., Path]) -> None:
    folder = with_canaries(new_run(rounds=20), accused=[])
    figure = audit_figure(read_run(folder))
    assert figure is not None
    assert figure.title.startswith(
        "With 95.0 % confidence whoever sees the sums learned at least ε = 1.00 of a"
    )
    assert " canary, by the ledger at most 9.2" in figure.title
    assert (
        "accuse nothing; with probability 95.0 % they would have seen noise 6.1 % too small" in figure.caption
    )
    assert "Conditional on: the coins are fair." in figure.caption
    assert [key.colour for key in figure.panels[0].keys] == ["blue", "vermillion"]
    source = write_report(folder).read_text(encoding="utf-8")
    assert "What the sums give away, by round" in source
    assert source.index("Privacy spent, by round") < source.index("What the sums give away, by round")


def test_the_report_never_says_that_a_run_leaked_more_than_it_may(new_run: Callable[..., Path]) -> None:
    figure = audit_figure(read_run(with_canaries(new_run(rounds=20), accused=[], a_round=0.6)))
    assert figure is not None
    assert figure.title.startswith("The 95.0 % lower bound (12.00) lies above the ledger's (9.2")
    assert figure.title.endswith("in up to 5.0 % of correct runs; sfd audit asks at a higher confidence")
    assert "at most" not in figure.title


def test_the_report_of_an_accused_run_says_so(new_run: Callable[..., Path]) -> None:
    folder = with_canaries(new_run(rounds=20), accused=["A6 too little noise"])
    figure = audit_figure(read_run(folder))
    assert figure is not None
    assert "does NOT do what its plan says; accused by A6 too little noise." in figure.caption
    assert figure.title.startswith("This run does NOT do what its plan says")


def test_a_run_without_canaries_has_no_such_section(finished_run: Path) -> None:
    assert audit_figure(read_run(finished_run)) is None


def test_a_run_that_was_stopped_in_its_warm_up_has_none_either(new_run: Callable[..., Path]) -> None:
    folder = new_run(rounds=20)
    first, *_ = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(json.dumps({**json.loads(first), "epsilon_lower": None}) + "\n")
    (folder / "summary.json").unlink()
    assert audit_figure(read_run(folder)) is None
