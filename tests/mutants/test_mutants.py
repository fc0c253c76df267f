"""Every mutant is killed by the check that is there for it, and no check accuses the package as it is.

The streams are seeded: an answer is the same each time, so nothing here fails by chance.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mutants.checks import CHECKS, STOPS
from tests.mutants.generate import PAGE, ask_all, killers, page, read
from tests.mutants.laboratory import Laboratory, laboratory
from tests.mutants.mutants import MUTANTS

KILLED = [name for name, mutant in MUTANTS.items() if mutant.named]


@pytest.fixture(scope="module")
def whole() -> Iterator[Laboratory]:
    with laboratory() as lab:
        yield lab


@pytest.mark.parametrize("name", CHECKS)
def test_the_package_as_it_is_passes(name: str, whole: Laboratory) -> None:
    assert CHECKS[name].finding(whole) is None


@pytest.mark.parametrize("name", KILLED)
def test_a_mutant_is_killed_by_the_check_that_is_there_for_it(name: str) -> None:
    mutant = MUTANTS[name]
    assert mutant.named is not None
    with mutant.alive(), laboratory() as lab:
        finding = CHECKS[mutant.named].finding(lab)
    assert finding is not None
    assert not finding.startswith(STOPS)


def test_each_mutant_has_a_named_check_or_a_reason_to_survive() -> None:
    for mutant in MUTANTS.values():
        assert (mutant.named is None) != (mutant.survives is None)
        assert mutant.named is None or mutant.named in CHECKS


def test_a_mutant_is_gone_when_its_block_ends() -> None:
    for mutant in MUTANTS.values():
        true = mutant.target.__dict__[mutant.attribute]
        with mutant.alive():
            assert mutant.target.__dict__[mutant.attribute] is not true
        assert mutant.target.__dict__[mutant.attribute] is true


def test_at_least_twenty_mutants_are_killed_and_every_check_but_a_weak_bound_kills_one() -> None:
    found = [killers(answers) for answers in read().values()]
    assert sum(bool(by) for by in found) >= 20
    # With 1,000 canaries A3's bound stays below a correct run's ε by more than any of these mutants lifts it.
    assert set(CHECKS) - {check for by in found for check in by} == {"A3 one run"}


def test_what_was_measured_is_of_these_mutants_and_these_checks() -> None:
    measured = read()
    assert set(measured) == {"", *MUTANTS}
    assert measured[""] == {}
    for name, mutant in MUTANTS.items():
        found = killers(measured[name])
        assert (mutant.named in found) if mutant.named else not measured[name]


def test_the_page_says_what_was_measured() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(read()), "run: python -m tests.mutants.generate --table"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", *MUTANTS])
def test_every_check_says_again_what_the_page_says(name: str) -> None:
    assert set(ask_all(name)) == set(read()[name])
