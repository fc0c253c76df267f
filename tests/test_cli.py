"""`sfd` as a person and as a program meet it: one line for each mistake, and a status that can be trusted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from secure_fed_diffusion import __version__, cli
from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.federation.run import Run, read_lines
from tests.federation.small import CONFIG

TWO_ROUNDS = ["--set", "modes.distributed.rounds=1"]  # and one of the warm-up

# Runs `sfd`, and notes each masked input once it has left the client's hands.
WATCHED = """
import json, os, signal, sys
from secure_fed_diffusion import cli
from secure_fed_diffusion.federation import client
signal.signal(signal.SIGINT, signal.default_int_handler)
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
honest = client.Client.handle
def handle(self, frame):
    announced = self._announcement
    answer = honest(self, frame)
    if announced is not None and self._announcement is None:
        left = [announced.round, announced.attempt, self.client_id]
        os.write(log, (json.dumps(left) + "\\n").encode())
    return answer
client.Client.handle = handle
cli.main()
"""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    out: str
    err: str


Ask = Callable[..., Answer]


@pytest.fixture
def sfd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Call the entry point in this process."""

    def ask(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["sfd", *(str(word) for word in words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Answer(int(ended.value.code or 0), said.out, said.err)

    return ask


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("configuration") / "small.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def first_run(config_file: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Return what the real command said, and the folder that it left."""
    folder = config_file.parent / "run"
    command = [
        sys.executable,
        "-m",
        "secure_fed_diffusion.cli",
        "run",
        str(config_file),
        "--out",
        str(folder),
    ]
    done = subprocess.run([*command, *TWO_ROUNDS], capture_output=True, text=True, check=False)
    return done, folder


@pytest.fixture
def folder(first_run: tuple[object, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(first_run[1], tmp_path / "run"))


def assert_refused(answer: Answer, status: int, *parts: str) -> None:
    assert answer.status == status, answer
    assert answer.out == ""
    assert answer.err.startswith("sfd: ")
    assert answer.err.count("\n") == 1
    for part in parts:
        assert part in answer.err


def test_a_run_ends_with_the_path_of_its_report(
    first_run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, folder = first_run
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("mode distributed: ε <= 10 at δ = 1e-05 in the view sum_c1")
    assert any(line.startswith("round 1/2 · ε ") for line in lines)
    assert lines[-1] == f"report: {folder / 'report.html'}"
    assert "\x1b" not in done.stdout
    assert (folder / "report.html").stat().st_size > 10_000


def test_a_program_gets_one_json_document_and_nothing_else(
    sfd: Ask, config_file: Path, tmp_path: Path
) -> None:
    answer = sfd("run", config_file, "--out", tmp_path / "run", "--json", *TWO_ROUNDS)
    assert answer.status == 0, answer.err
    assert answer.err == ""
    summary = json.loads(answer.out)
    assert summary["finished"] is True
    assert summary["mode"] == "distributed"
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("privacy.epsilo=1", ["privacy.epsilo", "did you mean privacy.epsilon?"]),
        ("privacy.mode=distribted", ["privacy.mode", "got 'distribted'", "did you mean distributed?"]),
        ("secagg.threshold=6", ["secagg.threshold", "federation.clients_per_round=5", "got 6"]),
        ("secagg.threshold=3", ["secagg.threshold", "holders + colluders = 5 + 1", "2 * 3"]),
        ("federation.clients_per_round=7", ["federation.clients_per_round", "federation.clients=6", "got 7"]),
        ("federation.min_survivors=3", ["federation.min_survivors", "secagg.threshold=4", "got 3"]),
        ("secagg.modulus_bits=14", ["secagg.modulus_bits", "no headroom", "got 14"]),
        ("secagg.modulus_bits=65", ["secagg.modulus_bits", "<= 64", "got 65"]),
        ("model.channels=[8, 8, 8, 8, 8]", ["model.channels", "divisible by 16", "8x8"]),
        ("model.patch=3", ["model.patch", "8x8", "got 3"]),
        ("model.down_blocks=['CrossAttnDownBlock2D', 'DownBlock2D']", ["CrossAttnDownBlock2D", "expected"]),
        ("data.train_limit=5000", ["data.train_limit", "1200", "got 5000"]),
        ("federation.vanish=[{ round = 1, client = 6 }]", ["federation.vanish.client", "0..5", "got 6"]),
        ("sampler.steps=51", ["sampler.steps", "diffusion.timesteps=50", "51"]),
        ("privacy.epsilon", ["section.key=value", "'privacy.epsilon'"]),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_any_work(
    override: str, parts: list[str], sfd: Ask, config_file: Path, tmp_path: Path
) -> None:
    assert_refused(sfd("run", config_file, "--out", tmp_path / "run", "--set", override), 2, *parts)
    assert not (tmp_path / "run").exists()


def test_a_budget_that_the_warm_up_alone_would_spend_is_refused_before_any_work(
    sfd: Ask, config_file: Path, tmp_path: Path
) -> None:
    answer = sfd("run", config_file, "--out", tmp_path / "run", "--set", "privacy.epsilon=0.1")
    assert_refused(answer, 1, "privacy.epsilon=0.1 ", "the warm-up alone", "warmup.noise_multiplier=4")
    assert not (tmp_path / "run").exists()


def test_a_missing_data_file_is_refused_with_where_it_was_looked_for(
    sfd: Ask, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SFD_DATA_DIR", str(tmp_path / "empty"))
    answer = sfd("run", config_file, "--out", tmp_path / "run", "--set", "data.name=mnist")
    assert_refused(answer, 1, "missing", str(tmp_path / "empty"), "SFD_DATA_DIR", "data.directory")
    monkeypatch.delenv("SFD_DATA_DIR")
    answer = sfd("run", config_file, "--out", tmp_path / "run", "--set", "data.name=mnist")
    assert_refused(answer, 1, "mnist needs", "SFD_DATA_DIR")
    assert not (tmp_path / "run").exists()


def test_a_missing_configuration_is_named(sfd: Ask, tmp_path: Path) -> None:
    answer = sfd("run", tmp_path / "nowhere.toml", "--out", tmp_path / "run")
    assert_refused(answer, 2, f"there is no file {tmp_path / 'nowhere.toml'}")


def test_a_configuration_that_is_no_toml_is_one_line(sfd: Ask, tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("[privacy\nmode = 'local'\n")
    assert_refused(sfd("run", tmp_path / "broken.toml", "--out", tmp_path / "run"), 2, "no valid TOML")


def test_a_gpu_that_is_not_there_is_refused(
    sfd: Ask, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    answer = sfd("run", config_file, "--out", tmp_path / "run", "--device", "cuda")
    assert_refused(answer, 2, "run.device", "cuda", "use cpu or auto")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_something_in_it_is_left_alone(sfd: Ask, config_file: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    answer = sfd("run", config_file, "--out", tmp_path / "run")
    assert_refused(answer, 1, "is not empty", "--resume")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_an_out_that_is_a_file_is_refused(sfd: Ask, config_file: Path) -> None:
    assert_refused(sfd("run", config_file, "--out", config_file), 1, str(config_file))
    assert config_file.read_text() == CONFIG


def test_a_run_that_never_began_cannot_be_resumed(sfd: Ask, config_file: Path, tmp_path: Path) -> None:
    answer = sfd("run", config_file, "--out", tmp_path / "nowhere", "--resume")
    assert_refused(answer, 1, "holds no run to resume")


@pytest.mark.parametrize("words", [["audit"], ["report"], ["sample"]])
def test_an_empty_folder_is_no_run(words: list[str], sfd: Ask, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(sfd(*words, tmp_path / "empty"), 1, str(tmp_path / "empty"))
    assert list((tmp_path / "empty").iterdir()) == []
    assert_refused(sfd(*words, tmp_path / "nowhere"), 1, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["runn"], ["runn"]),
        (["run", "a.toml"], ["--out"]),
        (["run", "a.toml", "--out", "b", "--device", "tpu"], ["tpu", "auto", "cpu", "cuda"]),
        (["bench", "secag"], ["secag", "secagg", "dpsgd"]),
        (["audit", "a", "--haed", "0"], ["--haed"]),
    ],
)
def test_a_wrong_word_on_the_command_line_is_one_line(words: list[str], parts: list[str], sfd: Ask) -> None:
    assert_refused(sfd(*words), 2, *parts)


def test_the_audit_says_what_it_can_and_cannot_exclude(sfd: Ask, folder: Path) -> None:
    head = json.loads((folder / "summary.json").read_text())["ledger_head"]
    without = sfd("audit", folder, "--json")
    assert without.status == 0
    assert json.loads(without.out)["truncation_excluded"] is False
    anchored = sfd("audit", folder, "--head", head, "--json")
    assert anchored.status == 0
    report = json.loads(anchored.out)
    assert report["truncation_excluded"] is True
    assert report["head"] == head
    words = sfd("audit", folder)
    assert words.status == 0
    assert "truncation is not excluded" in words.out
    assert "budget: ε = 10 in sum_c1" in words.out
    assert f"head: {head}" in words.out


def test_a_cut_tail_is_found_by_signed_heads_and_without_them_by_its_anchor_alone(
    sfd: Ask, folder: Path
) -> None:
    head = json.loads((folder / "summary.json").read_text())["ledger_head"]
    ledger = folder / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:-1]))
    assert_refused(sfd("audit", folder), 1, f"line {len(lines)}", "the tail was cut")
    (folder / "heads.jsonl").unlink()
    shutil.rmtree(folder / "clients")
    assert sfd("audit", folder).status == 0
    assert_refused(sfd("audit", folder, "--head", head), 1, "anchor")


@pytest.mark.parametrize("deed", ["alter", "drop", "reorder"])
def test_an_altered_ledger_is_found_and_its_line_named(deed: str, sfd: Ask, folder: Path) -> None:
    ledger = folder / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    if deed == "alter":
        lines[3] = lines[3].replace('"client_id":', '"client_id":1')
    elif deed == "drop":
        del lines[3]
    else:
        lines[3], lines[4] = lines[4], lines[3]
    ledger.write_text("".join(lines))
    assert_refused(sfd("audit", folder), 1, "line 4")
    assert_refused(sfd("audit", folder, "--json"), 1, "line 4")


def test_samples_are_drawn_from_the_model_of_a_run(sfd: Ask, folder: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grids" / "some.png"
    answer = sfd("sample", folder, "--out", grid, "--per-class", 1, "--seed", 3)
    assert answer.status == 0
    assert answer.out == f"10 images: {grid}\n"
    assert grid.read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.png"
    answer = sfd("sample", folder, "--out", again, "--per-class", 1, "--seed", 3, "--json")
    assert json.loads(answer.out) == {"file": str(again), "images": 10}
    assert again.read_bytes() == grid.read_bytes()


def test_a_picture_in_a_format_that_is_none_is_refused(sfd: Ask, folder: Path, tmp_path: Path) -> None:
    answer = sfd("sample", folder, "--out", tmp_path / "some.xyz", "--per-class", 1)
    assert answer.status in (1, 2)
    assert_refused(answer, answer.status, "xyz")


def test_a_model_of_few_timesteps_can_be_sampled(sfd: Ask, folder: Path, tmp_path: Path) -> None:
    scheduler = folder / "model" / "scheduler" / "scheduler_config.json"
    values = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps(values | {"num_train_timesteps": 20}))
    answer = sfd("sample", folder, "--out", tmp_path / "some.png", "--per-class", 1)
    assert answer.status == 0, answer.err


def test_a_report_can_be_written_again(sfd: Ask, folder: Path) -> None:
    (folder / "report.html").unlink()
    answer = sfd("report", folder, "--json")
    assert answer.status == 0
    assert json.loads(answer.out) == {"report": str(folder / "report.html")}
    assert (folder / "report.html").exists()


def test_the_version_is_one_line(sfd: Ask) -> None:
    assert sfd("--version") == Answer(0, f"{__version__}\n", "")


def test_help_comes_without_the_machinery() -> None:
    code = (
        "import sys; from secure_fed_diffusion import cli;"
        "print(*{'torch', 'diffusers', 'opacus', 'sklearn', 'matplotlib', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_ctrl_c_says_how_to_go_on(
    sfd: Ask, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def interrupted(self: Run, observer: object) -> dict[str, object]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "execute", interrupted)
        answer = sfd("run", config_file, "--out", out, "--json", *TWO_ROUNDS)
    assert_refused(answer, 130, "go on with: sfd run", f"--out {out} --resume")
    # The line is a command: it holds for what was begun, `--set` included.
    command = answer.err.partition("go on with: sfd ")[2].split()
    resumed = sfd(*command, "--json")
    assert resumed.status == 0, resumed.err
    assert json.loads(resumed.out)["finished"] is True


def test_ctrl_c_before_the_first_frame_leaves_quietly(
    sfd: Ask, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("secure_fed_diffusion.federation.prepare.make_plan", interrupted)
    answer = sfd("run", config_file, "--out", tmp_path / "run")
    assert answer.status == 130
    assert "Traceback" not in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL], ids=lambda blow: blow.name)
def test_a_run_that_is_struck_down_is_paid_for_and_goes_on(
    blow: signal.Signals, sfd: Ask, config_file: Path, tmp_path: Path
) -> None:
    folder, log = tmp_path / "run", tmp_path / "left.jsonl"
    words = ["run", str(config_file), "--out", str(folder), "--set", "modes.distributed.rounds=6"]
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(log), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not read_lines(folder / "metrics.jsonl"):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)  # into a round
        process.send_signal(blow)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in err
    if blow == signal.SIGINT:
        assert process.returncode == 130
        assert "--resume" in err
    else:
        assert process.returncode == -signal.SIGKILL
    assert "report:" not in out

    left = {tuple(json.loads(line)) for line in log.read_text().splitlines()}
    charges = [
        json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines(keepends=True)[1:]
    ]
    assert len(left) >= 5
    assert left <= {(c["round"], c["attempt"], c["client_id"]) for c in charges}
    assert verify(folder / "ledger.jsonl").lines == 1 + len(charges)

    resumed = sfd("run", folder / "config.toml", "--out", folder, "--resume", "--json")
    assert resumed.status == 0, resumed.err
    summary = json.loads(resumed.out)
    assert summary["finished"] is True
    assert [line["round"] for line in read_lines(folder / "metrics.jsonl")] == list(range(1, 8))
    assert verify(folder / "ledger.jsonl", head=summary["ledger_head"]).truncation_excluded
    spent = summary["epsilon"]["sum_c1"]["pld"]
    assert 0 < spent <= 10.0
