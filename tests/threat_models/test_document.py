"""THREAT_MODEL.md and results.json belong to the claims that are there, and every claim came out."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from secure_fed_diffusion.errors import DataError
from threat_models import document, registry, results
from threat_models.claim import Threshold


def test_the_document_is_what_the_committed_results_give() -> None:
    assert document.PATH.read_text(encoding="utf-8") == document.render(results.read()), (
        "stale: sfd threats --long --write"
    )


def test_every_claim_has_a_result_for_its_thresholds_and_came_out_as_written() -> None:
    committed = results.read()
    assert results.stale(registry.claims(), committed) == {}
    assert [claim_id for claim_id, result in committed.items() if not result.as_written] == []


def test_a_document_of_stale_results_is_refused() -> None:
    committed = results.read()
    lacking = {claim_id: result for claim_id, result in committed.items() if claim_id != "T5"}
    with pytest.raises(DataError, match="T5 has no result"):
        document.render(lacking)
    other = {**committed, "T5": replace(committed["T5"], threshold=Threshold(succeeds=0.9, fails=0.1))}
    with pytest.raises(DataError, match="T5 was run for"):
        document.render(other)


def test_the_document_changes_with_a_figure() -> None:
    committed = results.read()
    on = replace(committed["T5"].arms["on"], mean=0.123, low=0.111, high=0.135)
    changed = replace(committed["T5"], arms={**committed["T5"].arms, "on": on})
    assert "0.12 [0.11, 0.14] fails" in document.render({**committed, "T5": changed})


def test_every_row_says_how_to_run_it_and_every_adversary_has_a_part() -> None:
    text = document.PATH.read_text(encoding="utf-8")
    for claim_id, claim in registry.claims().items():
        assert f"`sfd threats --only {claim_id}`" in text
        assert claim.statement in text
    for adversary in registry.adversaries().values():
        assert f"### {adversary.title}\n" in text
        assert all(sentence in text for sentence in adversary.non_claims)
    for part in ("Goals", "The environment", "What is NOT provided", "Robustness", "Peers"):
        assert re.search(rf"^## {part}", text, re.MULTILINE)


def test_every_link_inside_the_document_leads_somewhere() -> None:
    text = document.PATH.read_text(encoding="utf-8")
    targets = set(re.findall(r'<a id="([^"]+)">', text))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= targets
    assert targets == {claim_id.lower() for claim_id in registry.claims()}
