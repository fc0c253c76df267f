"""`sfd` as a person meets it who made a mistake: one line for each, and a status that can be trusted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from secure_fed_diffusion import __version__, cli
from tests.cli.asking import Answer, Ask, assert_refused
from tests.federation.small import CONFIG


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
    assert_refused(answer, 2, "privacy.epsilon=0.1 ", "the warm-up alone", "warmup.noise_multiplier=4")
    assert not (tmp_path / "run").exists()
    changes = ["--set", "privacy.noise_multiplier=0.1", "--set", "warmup.draws=0"]
    answer = sfd("run", config_file, "--out", tmp_path / "run", *changes)
    assert_refused(answer, 2, "privacy.noise_multiplier=0.1 would spend ε = ")
    assert not (tmp_path / "run").exists()


def test_a_missing_data_file_is_refused_with_where_it_was_looked_for(
    sfd: Ask, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SFD_DATA_DIR", str(tmp_path / "empty"))
    answer = sfd("run", config_file, "--out", tmp_path / "run", "--set", "data.name=mnist")
    assert_refused(answer, 2, "missing", str(tmp_path / "empty"), "SFD_DATA_DIR", "data.directory")
    monkeypatch.delenv("SFD_DATA_DIR")
    answer = sfd("run", config_file, "--out", tmp_path / "run", "--set", "data.name=mnist")
    assert_refused(answer, 2, "mnist needs", "SFD_DATA_DIR")
    assert not (tmp_path / "run").exists()


def test_a_missing_configuration_is_named(sfd: Ask, tmp_path: Path) -> None:
    answer = sfd("run", tmp_path / "nowhere.toml", "--out", tmp_path / "run")
    assert_refused(answer, 2, f"there is no file {tmp_path / 'nowhere.toml'}")


def test_a_folder_in_the_configurations_place_is_named_once(sfd: Ask, tmp_path: Path) -> None:
    answer = sfd("run", tmp_path, "--out", tmp_path / "run")
    assert answer == Answer(2, "", f"sfd: {tmp_path} cannot be read: Is a directory\n")


def test_help_says_that_an_override_can_be_repeated(sfd: Ask) -> None:
    for command in ("run", "sweep"):
        assert "repeated" in sfd(command, "--help").out


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
    assert_refused(answer, 2, "is not empty", "--resume")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_an_out_that_is_a_file_is_refused(sfd: Ask, config_file: Path) -> None:
    assert_refused(sfd("run", config_file, "--out", config_file), 2, f"{config_file} is a file")
    assert config_file.read_text() == CONFIG


def test_a_run_that_never_began_cannot_be_resumed(sfd: Ask, config_file: Path, tmp_path: Path) -> None:
    answer = sfd("run", config_file, "--out", tmp_path / "nowhere", "--resume")
    assert_refused(answer, 2, "holds no run to resume")


@pytest.mark.parametrize("words", [["audit"], ["report"], ["sample"]])
def test_an_empty_folder_is_no_run(words: list[str], sfd: Ask, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(sfd(*words, tmp_path / "empty"), 2, str(tmp_path / "empty"))
    assert list((tmp_path / "empty").iterdir()) == []
    assert_refused(sfd(*words, tmp_path / "nowhere"), 2, str(tmp_path / "nowhere"))


def test_a_run_that_lost_its_ledger_is_a_run_whose_audit_fails(
    sfd: Ask, config_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_bytes(config_file.read_bytes())
    assert_refused(sfd("audit", tmp_path), 1, f"no ledger at {tmp_path / 'ledger.jsonl'}")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["runn"], ["runn"]),
        (["run", "a.toml"], ["--out"]),
        (["run", "a.toml", "--out", "b", "--device", "tpu"], ["tpu", "auto", "cpu", "cuda"]),
        (["bench", "secag"], ["secag", "secagg", "dpsgd"]),
        (["bench", "round", "--threads", "2"], ["--threads", "round has a number of threads of its own"]),
        (["audit", "a", "--haed", "0"], ["--haed"]),
        (["audit", "a", "--head", "abc"], ["--head: expected 64 hexadecimal digits, got 'abc'"]),
        (["audit", "a", "--head", ""], ["--head: expected 64 hexadecimal digits, got ''"]),
    ],
)
def test_a_wrong_word_on_the_command_line_is_one_line(words: list[str], parts: list[str], sfd: Ask) -> None:
    assert_refused(sfd(*words), 2, *parts)


@pytest.mark.parametrize("words", [["runn"], ["data", "lst"], ["institution", "kes"], ["repor"]])
def test_a_mistyped_command_gets_one_advice(words: list[str], sfd: Ask) -> None:
    answer = sfd(*words)
    assert_refused(answer, 2, f"No such command '{words[-1]}'. Did you mean '")
    assert answer.err.count("Did you mean") == 1


def test_one_of_two_advices_is_kept_whole_however_many_commands_they_name() -> None:
    both = "No such command 'x'. Did you mean 'b', 'a'? (Did you mean one of: 'a', 'b'?)"
    assert cli._advised_once(both) == "No such command 'x'. Did you mean 'b', 'a'?"
    assert cli._advised_once("Missing option '--out'.") == "Missing option '--out'."


def test_the_version_is_one_line(sfd: Ask) -> None:
    assert sfd("--version") == Answer(0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("command", "said"), [("run", "The run's configuration (TOML)."), ("audit", "folder")]
)
def test_help_says_what_each_argument_is(command: str, said: str, sfd: Ask) -> None:
    """Typer lost it with click 8.5."""
    answer = sfd(command, "--help")
    assert answer.status == 0
    arguments = answer.out.split("Arguments")[1].split("Options")[0]
    assert said in " ".join(arguments.split())


def test_the_package_runs_as_the_command() -> None:
    words = [sys.executable, "-m", "secure_fed_diffusion", "--version"]
    done = subprocess.run(words, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == __version__


def test_help_comes_without_the_machinery() -> None:
    code = (
        "import sys; from secure_fed_diffusion import cli;"
        "print(*{'torch', 'diffusers', 'opacus', 'sklearn', 'matplotlib', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_part_of_ours_that_is_missing_is_not_said_to_be_an_extra() -> None:
    program = "import sys; sys.modules['secure_fed_diffusion.sweep'] = None; import secure_fed_diffusion.cli"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "secure_fed_diffusion.sweep" in done.stderr
    assert "extra" not in done.stderr.splitlines()[-1]
