from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from secure_fed_diffusion.dp import SPENT_ASSUMPTION
from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.reporting import write_report
from secure_fed_diffusion.reporting.run_folder import read_run
from tests.reporting.synthetic_run import grid, nested

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"closed but never opened: {tag}"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def _write(folder: Path) -> tuple[str, Page]:
    source = write_report(folder).read_text(encoding="utf-8")
    return source, Page(source)


def _assert_loads_nothing(source: str, page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            if tag == "a" and name == "href" and attributes.get("download"):
                assert str(value).startswith("data:text/csv;base64,")
                continue
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, value)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttpRequest|import\(", source)
    assert not re.search(r"https?://", source)


@pytest.fixture(scope="module")
def report(finished_run: Path) -> tuple[str, Page]:
    return _write(finished_run)


def test_the_report_is_one_file_in_the_runs_folder(finished_run: Path) -> None:
    assert write_report(finished_run) == finished_run / "report.html"
    assert not list(finished_run.glob(".report-*"))


def test_the_report_is_well_formed_and_loads_nothing(report: tuple[str, Page]) -> None:
    _assert_loads_nothing(*report)


def test_every_figure_has_its_data_to_download(report: tuple[str, Page]) -> None:
    drawn = [part for part in report[0].split("<section")[1:] if "<svg" in part]
    assert len(drawn) > 3
    assert [part[:200] for part in drawn if 'download="' not in part] == []


def test_the_policy_admits_the_one_script_and_no_other(report: tuple[str, Page]) -> None:
    source, page = report
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    scripts = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_the_headline_carries_epsilon_with_all_that_it_depends_on(report: tuple[str, Page]) -> None:
    text = " ".join(report[1].text.split())
    start = text[: text.index("What this ε means")]
    for word in (
        "distributed",
        "ε = 9.99 of a budget of 10",
        f"ε = 9.94, {SPENT_ASSUMPTION}",
        "promised bythe plan",
        "1e-5",
        "example",
        "add_remove",
        "sum_c1",
        "PLD",
    ):
        assert word in start, word
    for word in ("FID", "11.9", "lenet84_digits", "floor 1.70", "92.8 %", "87.9 %"):
        assert word in start, word


def test_the_odds_are_those_of_the_plan_and_not_of_what_was_spent(new_run: Callable[..., Path]) -> None:
    """Repeats may be chosen by looking: a run that spent 3 of its plan's 9.99 still promises 9.99."""
    folder = new_run(rounds=2)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "epsilon": nested(3.0, "distributed")}))
    text = " ".join(_write(folder)[1].text.split())
    assert "trained at ε = 9.99" in text.replace("\xa0", " ")
    assert f"e^ε = {math.ceil(math.exp(9.99)):,}" in text
    assert f"e^ε = {math.ceil(10 * math.exp(3.0)) / 10:.1f}" not in text


def test_a_folder_that_states_no_epsilon_of_its_plan_promises_its_budget(
    new_run: Callable[..., Path],
) -> None:
    folder = new_run(rounds=2)
    summary = json.loads((folder / "summary.json").read_text())
    del summary["plan_epsilon"]
    (folder / "summary.json").write_text(json.dumps(summary))
    text = " ".join(_write(folder)[1].text.split())
    assert "ε = 10.00 of a budget of 10" in text
    assert "this folder states no ε of its plan" in text
    assert f"ε = 9.94, {SPENT_ASSUMPTION}" in text
    assert read_run(folder).guarantee == (10.0, "PLD")


def test_every_section_is_there(report: tuple[str, Page]) -> None:
    text = " ".join(report[1].text.split())
    for words in (
        "What this ε means",
        "Samples, one row a class",
        "What the server saw, and what it never saw",
        "What is not claimed",
        "sfd audit DIR --head HEAD",
        "sfd run DIR/config.toml",
        "Configuration",
        "Round by round: 41 lines",
        "7 before masked_input",
        "[modes.distributed]",
        "1.12 × what was needed",
        "holds againstThe server together with 1 of the clients",
        "5f5f5f: keep it elsewhere",
    ):
        assert words in text, words


def test_the_epsilon_table_has_both_accountants_for_every_view(report: tuple[str, Page]) -> None:
    table = report[0].split('<table class="epsilons')[1].split("</table>")[0]
    for value in ("60.94", "67.04", "9.99", "9.94", "10.94", "9.25", "10.17", "raw_update", "released_model"):
        assert value in table, value


def test_every_sample_grid_is_shown_without_a_script_too(report: tuple[str, Page]) -> None:
    source, page = report
    images = [a for t, a in page.elements if t == "img" and str(a.get("alt", "")).startswith("Samples")]
    assert len(images) == 9
    assert not [a for t, a in page.elements if t == "figure" and "hidden" in a]
    assert source.index('data-label="after the warm-up release"') < source.index(
        'data-label="after round 40"'
    )


def test_no_id_is_given_twice_with_another_meaning(report: tuple[str, Page]) -> None:
    named = [
        a["id"] for t, a in report[1].elements if a.get("id") and t not in ("g", "path", "defs", "clipPath")
    ]
    assert len(named) == len(set(named))


def test_a_run_without_privacy_says_in_its_first_line_that_it_protects_nothing(
    new_run: Callable[..., Path],
) -> None:
    source, page = _write(new_run(mode="none", rounds=6))
    _assert_loads_nothing(source, page)
    body = " ".join(page.text[page.text.index("no privacy") :].split())
    assert body.index("This run protects nothing") < body.index("secure_fed_diffusion")
    assert "ε = ∞" in page.text
    assert "budget of" not in page.text


def test_a_run_whose_every_view_is_unprotected_has_no_empty_section(new_run: Callable[..., Path]) -> None:
    folder = new_run(mode="none", rounds=6)
    nothing = {view: {"pld": None, "rdp": None} for view in ("raw_update", "sum_c0", "released_model")}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [{**line, "epsilon": nothing} for line in lines]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "epsilon": nothing}))
    _, page = _write(folder)
    assert "ε = ∞" in page.text
    assert "What this ε means" not in page.text


def test_a_view_without_a_bound_reads_no_guarantee(new_run: Callable[..., Path]) -> None:
    _, page = _write(new_run(mode="central", rounds=6))
    assert "no guarantee" in page.text
    assert "released_model" in page.text


HOSTILE = "</script><img src=x onerror=alert(1)><script>alert(1)</script>\\\"'{{ 7 * 7 }} $\\frac$"


def test_hostile_text_is_shown_and_never_run(new_run: Callable[..., Path]) -> None:
    folder = new_run(rounds=2)
    (folder / "config.toml").write_text(
        f"[privacy]\nmode = '''{HOSTILE}'''\n[\"<b onclick=alert(2)>\"]\n\"<b>\" = ['''{HOSTILE}''']\n"
    )
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {
        "statement": HOSTILE,
        "unit": HOSTILE,
        "relation": HOSTILE,
        "mode": HOSTILE,
        "class_names": [HOSTILE],
    }
    summary["metrics"] = {f"fid_{HOSTILE}": 3.0, f"tstr_{HOSTILE}": 0.5}
    (folder / "summary.json").write_text(json.dumps(summary))
    view = {"client_id": HOSTILE, "round": HOSTILE, "learned": [HOSTILE], "phases": [{"phase": HOSTILE}]}
    view["masked_histogram"] = {"bin_edges": [0, 1, 2], "counts": [5, 5]}
    (folder / "server_view.json").write_text(json.dumps(view))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines[-1] |= {
        "kind": HOSTILE,
        "dropped": {HOSTILE: HOSTILE},
        "guard_view": HOSTILE,
        "seconds": {HOSTILE: 1.0},
    }
    lines[-1]["epsilon"][HOSTILE] = {"pld": 1.0, "rdp": 1.2}
    summary.pop("epsilon")
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source, page = _write(folder)
    _assert_loads_nothing(source, page)
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 1
    assert not [tag for tag, _ in page.elements if tag == "b"]
    assert "onerror=alert(1)" in page.text
    assert "{{ 7 * 7 }}" in page.text


@pytest.mark.parametrize(
    "missing", ["metrics.jsonl", "summary.json", "server_view.json", "ledger.jsonl", "samples", "all"]
)
def test_a_run_in_progress_is_reported_without_what_it_has_not_got(
    new_run: Callable[..., Path], missing: str
) -> None:
    folder = new_run(rounds=6)
    everything = ["metrics.jsonl", "summary.json", "server_view.json", "ledger.jsonl", "samples"]
    for name in everything if missing == "all" else [missing]:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    source, page = _write(folder)
    _assert_loads_nothing(source, page)
    text = " ".join(page.text.split())
    assert ("has not finished" in text) == (missing in ("summary.json", "all"))
    assert ("No sample grid" in text) == (missing in ("samples", "all"))
    assert ("holds no ledger" in text) == (missing in ("ledger.jsonl", "all"))
    lost = "ledger.jsonl is missing: nothing here can be recomputed."
    assert (lost in text) == (missing in ("ledger.jsonl", "all"))
    if missing == "all":
        assert "nothing is promised" in text
        assert "has not finished its first round" in text
        assert "no round finished yet, mode distributed" in text
        assert "No round finished yet" in text
        assert "no privacy" not in text
        assert "without a privacy guarantee" not in text
        assert "ε = ∞" not in text


def test_an_emptied_ledger_is_told_beside_the_headline(new_run: Callable[..., Path]) -> None:
    folder = new_run(rounds=6)
    (folder / "ledger.jsonl").write_text("")
    text = " ".join(_write(folder)[1].text.split())
    assert "ledger.jsonl is empty: nothing here can be recomputed." in text[: text.index("What this ε means")]


def test_a_configuration_that_is_not_the_ledgers_is_told_beside_the_headline(
    new_run: Callable[..., Path],
) -> None:
    folder = new_run(rounds=6)
    config_toml, ledger = folder / "config.toml", folder / "ledger.jsonl"
    digest = hashlib.sha256(config_toml.read_bytes()).hexdigest()
    ledger.write_text(json.dumps({"config_digest": digest}) + "\n" + ledger.read_text())
    altered = "config.toml was changed since the run began"
    assert altered not in _write(folder)[1].text
    config_toml.write_text(config_toml.read_text() + "\n# and a line more\n")
    text = " ".join(_write(folder)[1].text.split())
    assert altered in text[: text.index("What this ε means")]
    (folder / "agreement.json").touch()  # an institution's configuration names its own files
    assert altered not in _write(folder)[1].text


def test_a_runs_time_is_shown_in_whole_minutes(new_run: Callable[..., Path]) -> None:
    folder = new_run(rounds=6)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"seconds": 60}))
    text = " ".join(_write(folder)[1].text.split())
    assert "61,234 parameters, 1 min." in text


@pytest.mark.parametrize(
    "keys",
    [
        ("epsilon", "kind"),
        ("delta", "unit"),
        ("cohort", "seconds"),
        ("survivors", "holdout_loss", "bytes_up"),
    ],
)
def test_keys_that_no_round_has_are_left_out(new_run: Callable[..., Path], keys: tuple[str, ...]) -> None:
    folder = new_run(rounds=6)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").write_text(
        "\n".join(json.dumps({k: v for k, v in line.items() if k not in keys}) for line in lines)
    )
    (folder / "summary.json").unlink()
    _assert_loads_nothing(*_write(folder))


def test_numbers_that_are_not_finite_are_no_numbers(new_run: Callable[..., Path]) -> None:
    folder = new_run(rounds=6)
    text = (folder / "metrics.jsonl").read_text()
    text = re.sub(r'"(fid_lenet84_digits|holdout_loss|tstr_cnn)": [\d.]+', r'"\1": NaN', text)
    (folder / "metrics.jsonl").write_text(re.sub(r'"pld": [\d.]+', '"pld": Infinity', text))
    (folder / "summary.json").unlink()
    _, page = _write(folder)
    assert "inf" not in page.text.lower().replace("info", "")
    assert "nan" not in page.text.lower()
    assert "RDP" in page.text


def test_a_long_run_embeds_a_choice_of_its_grids_with_first_and_last(new_run: Callable[..., Path]) -> None:
    folder = new_run(rounds=5)
    for index in range(100, 160):
        grid(folder / "samples" / f"round_{index:04d}.png", 0.5)
    source, page = _write(folder)
    assert len([a for t, a in page.elements if t == "img"]) == 24
    assert "after the warm-up release" in source
    assert "after round 159" in source
    assert "24 of 62 grids" in " ".join(page.text.split())


def test_a_folder_without_a_configuration_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())
