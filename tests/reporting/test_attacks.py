"""The section on attacks: there only with its file, with its warning, and with nothing private drawn."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.evaluation.attacks import WARNING
from secure_fed_diffusion.evaluation.membership import Guarantee, membership_figures
from secure_fed_diffusion.evaluation.memorization import memorization
from secure_fed_diffusion.reporting import write_report
from secure_fed_diffusion.reporting.attacks import make_section, read_attacks
from tests.reporting.test_html import HOSTILE, Page, _assert_loads_nothing


def content(
    *, shift: float = 0.0, guarantee: Guarantee | None = None, control: float = 0.5
) -> dict[str, Any]:
    """Return invented figures in the shape that a run writes."""
    rng = np.random.default_rng(0)
    membership = {}
    for name in ("loss_threshold", "sima"):
        membership[name] = membership_figures(rng.normal(shift, 1, 200), rng.normal(0, 1, 100))
        membership[name] |= {"control_auc": control, "control_interval": [control - 0.05, control + 0.05]}
        if guarantee is not None:
            for point in membership[name]["tpr_at_fpr"]:
                point["bound"] = float(guarantee.tpr_bound(np.array([point["fpr"]]))[0])
    samples, train, held_out = (rng.normal(size=(n, 4)) for n in (80, 60, 60))
    spaces = {
        space: memorization(samples, train, held_out)
        | {"held_out": split, "control": "…", "control_share": 0.49, "control_interval": [0.4, 0.6]}
        for space, split in (("pixels", "public"), ("lenet32_digits", "test"))
    }
    bound = None
    if guarantee is not None:
        bound = {
            "view": guarantee.view,
            "unit": guarantee.unit,
            "epsilon": guarantee.epsilon,
            "delta": guarantee.delta,
        }
    return json.loads(
        json.dumps({"warning": WARNING, "bound": bound, "membership": membership, "memorization": spaces})
    )


def claim(epsilon: float, unit: str = "example") -> Guarantee:
    return Guarantee(epsilon=epsilon, delta=1e-5, unit=unit, view="sum_c1")


def _report(folder: Path, figures: Any) -> tuple[str, str]:
    (folder / "attacks.json").write_text(json.dumps(figures))
    source = write_report(folder).read_text(encoding="utf-8")
    page = Page(source)
    _assert_loads_nothing(source, page)
    return source, " ".join(page.text.split())


def test_a_run_without_the_file_has_no_such_section(finished_run: Path) -> None:
    assert read_attacks(finished_run) is None
    source = write_report(finished_run).read_text(encoding="utf-8")
    assert '<section class="attacks">' not in source
    assert "SimA" not in source
    assert "No training loss" in source


def test_the_section_says_first_that_it_is_private_and_then_shows_figures_with_intervals(
    new_run: Callable[..., Path],
) -> None:
    folder = new_run(rounds=2)
    figures = content(guarantee=claim(1.0))
    source, text = _report(folder, figures)
    section = text[text.index("These attacks do not tell") :]
    assert section.index(WARNING) < section.index("Membership") < section.index("Memorisation")
    found = figures["membership"]["sima"]
    for value in (found["auc"], *found["auc_interval"]):
        assert f"{value:.3f}" in section
    assert "200 training images and 100 held-out ones" in section
    assert "an AUC of at most 0.732" in section  # e / (1 + e), rounded up
    # e of 1 %, rounded up
    assert "ε allows finding 2.8 %" in section
    assert "60 of the public split" in section
    assert "60 of the test split" in section
    # the page as a whole is now private, and says so at its end too
    assert "this page is for the owner of the data" in text
    assert "No training loss" not in text
    assert stat.S_IMODE((folder / "report.html").stat().st_mode) == 0o600
    # whoever deletes the file gets a page that may be shown
    (folder / "attacks.json").unlink()
    assert "SimA" not in write_report(folder).read_text(encoding="utf-8")
    assert stat.S_IMODE((folder / "report.html").stat().st_mode) == 0o644
    assert source.count("<img") == source.count('alt="Samples')  # no pair of images


def test_the_title_says_what_the_intervals_show() -> None:
    nothing, leak = content(), content(shift=2.0)
    assert make_section(nothing).figure.title.startswith("These attacks do not tell")
    assert make_section(leak).figure.title.startswith("Attacks tell training images from others: Loss")
    leak["membership"]["sima"]["auc_interval"] = [0.49, 0.6]
    assert make_section(nothing).figure.title.count("AUC") == 2
    one = make_section(leak).figure.title  # one of two: it is named, and so is the other
    assert one.startswith("1 of 2 attacks tell training images from others: Loss\u00a0threshold AUC")
    assert "(0.490–0.600)" in one.partition("; not so SimA")[2]


def test_the_caption_says_how_often_one_of_several_intervals_misleads_and_what_no_control_shows() -> None:
    figures = content()
    caption = make_section(figures).figure.caption
    assert "of 2 attacks that find nothing, one or more seems to find something in up to 5.0 %" in caption
    assert "on MNIST, whose held-out images are the easier ones, the AUC of a loss is too low by" in caption
    figures["membership"] |= dict.fromkeys(("third", "fourth"), figures["membership"]["sima"])
    assert "in up to 10.0 % of models" in make_section(figures).figure.caption


def test_a_control_that_finds_something_forbids_the_reading() -> None:
    title = make_section(content(shift=2.0, control=0.7)).figure.title
    assert title.startswith("Not to be read as a leak")


def test_the_bound_is_drawn_and_worded_only_where_the_run_claims_one() -> None:
    bare, bounded = make_section(content()), make_section(content(guarantee=claim(1.0)))
    assert bare.bound == "This run claims no ε, so nothing bounds any attack."
    assert [key.label for key in bare.figure.panels[0].keys] == ["Loss\u00a0threshold", "SimA", "a coin"]
    assert "most that ε = 1.00 allows" in [key.label for key in bounded.figure.panels[0].keys]
    ink = "var(--ink)"
    for without, with_bound in zip(bare.figure.panels, bounded.figure.panels, strict=True):
        assert with_bound.body.count(ink) > without.body.count(ink)
    assert {point["bound"] for row in bare.membership for point in row["points"]} == {"no bound"}


def test_a_guarantee_for_a_whole_client_is_restated_for_one_image() -> None:
    assert (
        "for one image of a client: ε = 2.00" in make_section(content(guarantee=claim(1.0, "client"))).bound
    )
    assert "for one image" not in make_section(content(guarantee=claim(1.0))).bound


def test_hostile_text_in_the_file_is_shown_and_never_run(new_run: Callable[..., Path]) -> None:
    figures = content()
    figures["warning"] = HOSTILE
    figures["membership"][HOSTILE] = figures["membership"].pop("sima")
    figures["memorization"][HOSTILE] = figures["memorization"].pop("pixels")
    source, text = _report(new_run(rounds=2), figures)
    assert "onerror=alert(1)" in text
    assert source.count("<script>") == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda figures: figures.pop("warning"),
        lambda figures: figures.update(membership={}),
        lambda figures: figures.update(membership=[1]),
        lambda figures: figures["membership"]["sima"]["roc"].update(fpr=[0.0]),
        lambda figures: figures["membership"]["sima"]["roc"].update(fpr=[float("nan")] * 3, tpr=[0.0] * 3),
        lambda figures: figures["memorization"]["pixels"].pop("nearest"),
        lambda figures: figures.update(bound={"epsilon": "much"}),
    ],
)
def test_a_file_that_holds_something_else_is_refused_by_name(
    spoil: Callable[[dict[str, Any]], Any], new_run: Callable[..., Path]
) -> None:
    folder = new_run(rounds=2)
    figures = content()
    spoil(figures)
    (folder / "attacks.json").write_text(json.dumps(figures))
    with pytest.raises(RunError, match=r"attacks\.json: no attack figures"):
        read_attacks(folder)
    (folder / "attacks.json").write_text("[")
    with pytest.raises(RunError, match=r"attacks\.json"):
        read_attacks(folder)
