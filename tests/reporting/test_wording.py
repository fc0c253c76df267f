from __future__ import annotations

import math

import pytest

from secure_fed_diffusion.reporting import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.971, "9.98"), (10.0, "10.00"), (0.0, "0.00"), (123.2, "124"), (1234567.0, "1,234,567")],
)
def test_an_epsilon_is_rounded_up_because_it_is_an_upper_bound(value: float, text: str) -> None:
    assert wording.epsilon_text(value) == text


@pytest.mark.parametrize("value", [None, math.inf, math.nan, "9.9", True])
def test_what_is_no_finite_number_is_no_guarantee(value: object) -> None:
    assert wording.epsilon_text(value) == "no guarantee"


def test_pld_is_preferred_and_rdp_is_named_where_it_stands_in() -> None:
    assert wording.bound({"sum_c1": {"pld": 1.0, "rdp": 2.0}}, "sum_c1") == (1.0, "PLD")
    assert wording.bound({"sum_c1": {"pld": None, "rdp": 2.0}}, "sum_c1") == (2.0, "RDP")
    assert wording.bound({"sum_c1": {"pld": None, "rdp": None}}, "sum_c1") == (None, "–")
    assert wording.bound(None, None) == (None, "–")


def test_every_number_of_colluders_has_its_words() -> None:
    assert "alone" in wording.adversary("sum_c0")
    assert "1 colluding client" in wording.adversary("sum_c1")
    assert "12 colluding clients" in wording.adversary("sum_c12")
    assert wording.adversary("sum_c") == "whoever sees sum_c"


def test_the_meaning_of_a_small_epsilon_bounds_the_guesser() -> None:
    text = wording.meaning(1.0, delta=1e-5, unit="example", relation="add_remove", view="sum_c1")
    assert "e^ε = 2.8" in text  # 2.718 rounded up
    assert "at most 73.2 %" in text  # e / (1 + e) = 0.73106, rounded up
    assert "one image" in text
    assert "strong" in text


def test_the_meaning_of_a_large_epsilon_does_not_sound_safe() -> None:
    text = wording.meaning(10.0, delta=1e-5, unit="client", relation="zero_out", view="released_model")
    assert "22,027" in text
    assert "weak" in text
    assert "strong" not in text
    assert "institution" in text
    assert "not held back" in wording.meaning(500.0, delta=0, unit="example", relation="x", view="y")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.delta_text(1e-5), "1e-5"),
        (wording.delta_text(0.001), "0.001"),
        (wording.figure_text(12.345), "12.3"),
        (wording.figure_text(1234.5), "1,234"),
        (wording.figure_text(0.01234), "0.0123"),
        (wording.percent_text(0.8812), "88.1 %"),
        (wording.bytes_text(480), "480 B"),
        (wording.bytes_text(1_380_000), "1.38 MB"),
        (wording.duration_text(90), "90.0 s"),
        (wording.duration_text(3700), "62 min"),
        (wording.minutes_text(60), "1 min"),
        (wording.minutes_text(7380), "2 h 3 min"),
        (wording.minutes_text(None), "–"),
        (wording.count_text(1, "run"), "1 run"),
        (wording.count_text(0, "round"), "0 rounds"),
        (wording.metric_name("fid_lenet84_mnist"), "FID (lenet84_mnist)"),
    ],
)
def test_numbers_read_as_a_person_writes_them(text: str, expected: str) -> None:
    assert text == expected
