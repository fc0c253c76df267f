"""Every claim and every adversary is found by its file, and what does not fit together is refused."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from secure_fed_diffusion.errors import ConfigError
from threat_models import registry
from threat_models.claim import View

ADVERSARIES = (
    "colluding_clients",
    "curious_server",
    "malicious_server",
    "model_observer",
    "network",
    "poisoner",
)
THREATS = tuple(f"T{number}" for number in range(1, 18))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `claims_apart` of its own, forgotten afterwards."""
    folder = tmp_path / "claims_apart"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("claims_apart")]:
        del sys.modules[name]
    registry.claims.cache_clear()
    registry.claims_in.cache_clear()
    importlib.invalidate_caches()


def put(folder: Path, name: str, **changes: str) -> None:
    settings = ", ".join(f"{key}={value}" for key, value in changes.items())
    (folder / f"{name}.py").write_text(
        "from tests.threat_models import made_up\n"
        "from threat_models.adversaries.network import Refusals\n"
        f"CLAIM = made_up.claim({settings})\n"
    )


def test_there_is_one_file_for_each_adversary() -> None:
    assert tuple(registry.adversaries()) == ADVERSARIES
    for adversary in registry.adversaries().values():
        for entry in ("capabilities", "views", "assets", "assumptions", "non_claims"):
            assert getattr(adversary, entry), (adversary.name, entry)


def test_every_threat_of_the_reference_has_a_claim_and_every_adversary_one() -> None:
    claims = registry.claims()
    assert set(THREATS) <= {claim_id.rstrip("abcdefghij") for claim_id in claims}
    assert {claim.adversary for claim in claims.values()} == set(ADVERSARIES)
    assert any(not claim.promised for claim in claims.values())


def test_every_view_of_an_adversary_is_used_by_a_claim() -> None:
    used = {claim.view for claim in registry.claims().values()}
    for adversary in registry.adversaries().values():
        assert set(adversary.views) <= used, adversary.name


def test_every_claim_says_where_it_stands_in_the_taxonomies() -> None:
    for claim in registry.claims().values():
        assert claim.tags.stride, claim.id
        assert claim.tags.linddun or claim.tags.atlas or claim.tags.stride != ("Information disclosure",)


def test_a_claim_is_found_without_importing_the_others(package: Path) -> None:
    (package / "t98_broken.py").write_text("raise ValueError('broken')\n")
    put(package, "t97_sealed", id="'T97'", view="Refusals", attack="None")
    with pytest.raises(ConfigError, match="attack"):
        registry.find("claims_apart", "T97")
    with pytest.raises(ValueError, match="broken"):
        registry.find("claims_apart", "t98")


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("t97_sealed", {"id": "'T97'"}, "network has .*not Sealed"),
        ("t97_sealed", {"id": "'T97'", "adversary": "'nobody'"}, "expected one of .*'nobody'"),
        ("t97_sealed", {"id": "'T96'"}, "expected T96 in a file t96"),
        ("sealed", {"id": "'T97'"}, "expected a name such as"),
        ("t97_sealed", {"id": "'seven'"}, "expected an id such as"),
    ],
)
def test_a_claim_that_does_not_fit_its_file_or_its_adversary_is_refused(
    package: Path, name: str, changes: dict[str, str], why: str
) -> None:
    put(package, name, **changes)
    with pytest.raises(ConfigError, match=why):
        registry.claims("claims_apart")


def test_a_module_without_a_claim_is_refused(package: Path) -> None:
    (package / "t97_empty.py").touch()
    with pytest.raises(ConfigError, match="expected CLAIM"):
        registry.claims("claims_apart")


@pytest.mark.parametrize(("wrong", "nearest"), [("T1x", "T1"), ("T55", "T5"), ("7", "T7")])
def test_a_wrong_id_gets_the_nearest_right_one(wrong: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"no claim '{wrong}'; did you mean {nearest}"):
        registry.choose(registry.CLAIMS, [wrong])


def test_upper_and_lower_case_are_the_same_and_no_claim_is_chosen_twice() -> None:
    assert [claim.id for claim in registry.choose(registry.CLAIMS, ["t5", "T1B", "T5"])] == ["T5", "T1b"]


def test_no_view_can_be_made_of_anything_but_frozen_fields() -> None:
    for adversary in registry.adversaries().values():
        for view in adversary.views:
            assert issubclass(view, View)
            assert view.__dataclass_params__.frozen  # type: ignore[attr-defined]
