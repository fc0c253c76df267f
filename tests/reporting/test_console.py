from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from secure_fed_diffusion.dp import SPENT_ASSUMPTION
from secure_fed_diffusion.reporting import RunProgress, epsilon_table
from secure_fed_diffusion.reporting.console import guarantee_text
from tests.reporting.synthetic_run import nested, record

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def _log() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=60), stream


def _screen() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=True, width=140, color_system="truecolor"), stream


def test_a_log_has_plain_lines_and_no_control_character() -> None:
    console, stream = _log()
    with RunProgress(40, console=console) as progress:
        for index in range(41):
            progress.round(record(index, rounds=40, mode="distributed"))
        progress.note("client 7 \x1b[31mwent\x07 missing\r")
    assert not CONTROL.search(stream.getvalue())
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("round 0/40 · ε spent")
    assert any(line.startswith("round 40/40 · ε spent 9.94 of 10 (sum_c1, PLD)") for line in lines)
    assert "FID (lenet84_digits)" in lines[0]


def test_a_log_of_a_long_run_stays_short_and_keeps_its_last_round() -> None:
    console, stream = _log()
    with RunProgress(1000, console=console) as progress:
        for index in range(1, 1001):
            line = record(1, rounds=1000, mode="distributed") | {"round": index}
            progress.round(line)
    lines = stream.getvalue().splitlines()
    assert 15 <= len(lines) <= 25
    assert lines[-1].startswith("round 1000/1000")


@pytest.mark.parametrize("terminal", [False, True])
def test_a_training_loss_is_never_shown(terminal: bool) -> None:
    console, stream = _screen() if terminal else _log()
    with RunProgress(3, console=console) as progress:
        progress.round(record(3, rounds=3, mode="distributed") | {"loss": 0.123456, "clip_count": 123456})
    assert "123456" not in stream.getvalue()
    assert "hold-out loss" in stream.getvalue()


def test_a_terminal_shows_a_bar_with_epsilon_loss_and_survivors() -> None:
    console, stream = _screen()
    with RunProgress(40, console=console) as progress:
        progress.round(record(4, rounds=40, mode="distributed"))
    assert "\x1b[" in stream.getvalue()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "round 4/40" in text
    assert "survivors 5/6" in text
    assert "of 10 (sum_c1, PLD)" in text


def test_a_narrow_terminal_keeps_epsilon_loss_and_survivors_on_one_line() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    with RunProgress(40, console=console) as progress:
        progress.round(record(4, rounds=40, mode="distributed"))
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).strip().splitlines()[-1]
    assert "round 4/40" in last
    assert "ε 3.48/10 · hold-out 0.718 · 5/6" in last


def test_a_run_without_privacy_says_so_on_every_line() -> None:
    console, stream = _log()
    with RunProgress(3, console=console) as progress:
        progress.round(record(1, rounds=3, mode="none"))
        progress.round({"round": 2})
    assert all("no privacy guarantee" in line for line in stream.getvalue().splitlines())
    assert len(stream.getvalue().splitlines()) == 2


def test_markup_in_a_note_is_shown_as_it_is() -> None:
    console, stream = _screen()
    with RunProgress(3, console=console) as progress:
        progress.note("[bold]no markup[/bold]")
    assert "[bold]no markup[/bold]" in stream.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_the_epsilon_table_names_every_view_accountant_and_adversary(terminal: bool) -> None:
    console, stream = _screen() if terminal else _log()
    values = nested(9.94, "distributed") | {"raw_update": {"pld": None, "rdp": None}}
    epsilon_table(values, delta=1e-5, unit="example", relation="add_remove", console=console)
    text = stream.getvalue()
    for word in (
        "sum_c1",
        "9.94",
        "10.94",
        "no guarantee",
        "released_model",
        "1e-5",
        "add_remove",
        "colluding",
    ):
        assert word in text
    assert terminal or not CONTROL.search(text)


def test_a_run_ends_with_what_it_was_promised_and_says_what_the_spent_figure_assumes() -> None:
    """A server that calls no round failed, having seen the sums, makes the spent ε smaller than it may be."""
    summary = {
        "plan_epsilon": nested(9.99, "distributed"),
        "epsilon": nested(8.6, "distributed"),
        "delta": 1e-5,
        "unit": "example",
        "relation": "add_remove",
        "guard_view": "sum_c1",
    }
    said = guarantee_text(summary)
    assert said.startswith("guarantee: ε = 9.99 (PLD) at δ = 1e-5")
    assert f"spent of it: 8.60, {SPENT_ASSUMPTION}" in said
    assert guarantee_text({**summary, "plan_epsilon": None}) == "no privacy guarantee"


def test_the_epsilon_table_of_nothing_promises_nothing() -> None:
    console, stream = _log()
    epsilon_table(None, delta=None, unit=None, relation=None, console=console)
    assert "no guarantee" in stream.getvalue()


def test_a_stream_that_cannot_hold_greek_letters_gets_its_lines_all_the_same() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with RunProgress(1, console=Console(file=stream)) as progress:
        progress.round(record(1, rounds=1, mode="distributed"))
    stream.flush()
    assert b"round 1/1" in raw.getvalue()
