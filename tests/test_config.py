"""TOML in, settings out: a mistake is one line that names the key, the value and the nearest right one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from secure_fed_diffusion import config
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.federation.settings import MODES, PrivacySettings, RunSettings
from tests.federation.small import CONFIG

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*/config.toml"))


def refusal(text: str, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, overrides)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        "",
        CONFIG,
        "[federation]\nvanish = [{ round = 2, client = 1 }, { round = 3, client = 0, phase = 'unmask' }]",
        "[secagg]\nmodulus_bits = 40\nn_neighbours = 4",
        "[secagg]\nmodulus_bits = 'auto'",
        "[data]\ndirectory = 'some folder/with \"quotes\"'\ntrain_limit = 100",
        "[model]\nchannels = [32, 64]\ndown_blocks = ['DownBlock2D', 'AttnDownBlock2D']",
    ],
)
def test_what_is_dumped_is_read_back_as_it_was(text: str) -> None:
    settings = config.parse(text)
    assert config.parse(config.dump(settings)) == settings
    assert config.dump(config.parse(config.dump(settings))) == config.dump(settings)


def test_the_dump_holds_every_default() -> None:
    text = config.dump(config.parse(""))
    for section in dataclasses.fields(RunSettings):
        assert f"[{section.name}" in text
    assert "noise_multiplicity = 1" in text
    assert "[modes.client]" in text


def test_an_empty_file_is_a_run_with_the_defaults() -> None:
    assert config.parse("") == RunSettings()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.parent.name)
def test_the_experiments_configurations_are_valid_in_every_mode(path: Path) -> None:
    for mode in MODES:
        assert config.load(path, [f"privacy.mode={mode}"]).privacy.mode == mode


def test_there_are_experiments_to_check() -> None:
    assert {path.parent.name for path in EXPERIMENTS} >= {"quickstart", "mnist_first"}


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[privcy]\nmode = 'local'", "privcy", "privacy"),
        ("[privacy]\nepsilo = 3.0", "privacy.epsilo", "privacy.epsilon"),
        ("[privacy]\nclients = 3", "privacy.clients", "federation.clients"),
        ("threshold = 3", "threshold", "secagg.threshold"),
        ("[modes.distributed]\nround = 3", "modes.distributed.round", "modes.distributed.rounds"),
        ("[modes.centrl]\nrounds = 3", "modes.centrl", "modes.central"),
        ("[modes.client]\nmicro_batch = 3", "modes.client.micro_batch", "modes.client.batch"),
        (
            "[federation]\nvanish = [{ round = 1, client = 0 }, { round = 1, cleint = 1 }]",
            "federation.vanish.cleint",
            "federation.vanish.client",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_right_one(text: str, key: str, nearest: str) -> None:
    error = refusal(text)
    assert error.key == key
    assert str(error).startswith(f"{key}: no such key; did you mean ")
    assert nearest in str(error).partition("did you mean ")[2]


def test_a_key_that_resembles_nothing_is_answered_with_all_there_are() -> None:
    error = refusal("[privacy]\nzzzz = 1")
    keys = ", ".join(field.name for field in dataclasses.fields(PrivacySettings))
    assert f"the keys here are {keys}" in str(error)
    error = refusal("[zzzz]\nmode = 1")
    assert "the sections here are run, data, federation" in str(error)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("privacy.mode=distribted", ["privacy.mode", "none, central, local", "did you mean distributed?"]),
        ("privacy.mode=xyz", ["privacy.mode", "none, central, local, distributed, client, got 'xyz'"]),
        ("privacy.accountant=rpd", ["privacy.accountant", "pld, rdp", "did you mean rdp?"]),
        ("modes.local.optimizer=adm", ["modes.local.optimizer", "adam, sgd", "did you mean adam?"]),
        ("run.device=gpu", ["run.device", "auto, cpu, cuda", "'gpu'"]),
        ("data.name=mnst", ["data.name", "digits, mnist, fashion_mnist, pneumonia", "did you mean mnist?"]),
        ("data.partition=irichlet", ["data.partition", "dirichlet", "did you mean dirichlet?"]),
        ("secagg.modulus_bits=aut", ["secagg.modulus_bits", "'aut'"]),
        ("diffusion.prediction=x0", ["diffusion.prediction", "epsilon, v", "'x0'"]),
        ("federation.clients=many", ["federation.clients", "integer", "'many'"]),
        ("federation.clients=2.5", ["federation.clients: expected an integer, got 2.5"]),
        ("privacy.epsilon=[1.0]", ["privacy.epsilon: expected a number, got [1.0]"]),
        ("model.channels=16", ["model.channels: expected a list, got 16"]),
        ("model.channels=[16, 'wide']", ["model.channels.1", "integer", "'wide'"]),
        ("federation=3", ["--set section.key=value", "'federation=3'"]),
        ("federation.vanish=3", ["federation.vanish: expected a list of tables, got 3"]),
        ("federation.vanish={ round = 1, client = 1 }", ["federation.vanish: expected a list of tables"]),
        ("federation.vanish=[3]", ["federation.vanish: expected a table, got 3"]),
        ("evaluation.classifiers=cnn", ["evaluation.classifiers: expected a list, got 'cnn'"]),
        ("federation.masked=3", ["federation.masked: expected true or false, got 3"]),
        ("data.name=3", ["data.name", "got 3"]),
        ("privacy.epsilon=abc", ["privacy.epsilon: expected a number, got 'abc'"]),
        ("run.workers=many", ["run.workers: expected an integer or 'auto', got 'many'"]),
        ("epsilon=3", ["got 'epsilon=3'; did you mean privacy.epsilon?"]),
        ("samples=3", ["got 'samples=3'; did you mean evaluation.samples?"]),
        ("federation.vanish=[{ round = 1 }]", ["federation.vanish", "client"]),
        ("federation.vanish=[{ round = 0, client = 1 }]", ["federation.vanish.round", "from 1", "0"]),
        ("modes.local=3", ["modes.local", "expected a table", "3"]),
        ("privacy.epsilon=0", ["privacy.epsilon", "> 0", "0"]),
        ("privacy.epsilon=nan", ["privacy.epsilon", "a finite number", "nan"]),
        ("privacy.epsilon=inf", ["privacy.epsilon", "a finite number", "inf"]),
        ("warmup.covariances.clip_norm=-inf", ["warmup.covariances.clip_norm", "a finite number", "-inf"]),
        ("privacy.epsilon=true", ["privacy.epsilon", "a number", "true"]),
        ("privacy.noise_multiplier=false", ["privacy.noise_multiplier", "a number", "false"]),
        ("federation.clients=true", ["federation.clients: expected an integer, got true"]),
        ("secagg.modulus_bits=true", ["secagg.modulus_bits", "an integer", "true"]),
        ("model.channels=[true, 16]", ["model.channels.0", "an integer", "true"]),
        ("federation.vanish=[{ round = true, client = 1 }]", ["federation.vanish.round", "integer", "true"]),
        ("privacy.delta=1", ["privacy.delta", "0 < delta < 1", "1"]),
        ("federation.clients_per_round=99", ["federation.clients_per_round", "federation.clients=8", "99"]),
        ("model.channels=[16]", ["model.channels", "at least 2", "1"]),
        ("sampler.eta=1.5", ["sampler.eta", "0 <= eta <= 1", "1.5"]),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_what_was_expected_and_what_came(
    override: str, parts: list[str]
) -> None:
    message = str(refusal("", override))
    for part in parts:
        assert part in message
    assert "unable to parse" not in message
    assert "tuple" not in message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('[privacy]\nepsilon = "10"', ["privacy.epsilon", "a number", "the text '10'"]),
        ('[federation]\nclients = "8"', ["federation.clients", "an integer", "the text '8'"]),
        ('[run]\nworkers = "2"', ["run.workers", "an integer or 'auto'", "the text '2'"]),
        ("[model]\nchannels = [16, '32']", ["model.channels.1", "an integer", "the text '32'"]),
        ("[modes.local]\nlearning_rate = true", ["modes.local.learning_rate", "a number", "true"]),
    ],
)
def test_a_file_holds_numbers_where_numbers_belong(text: str, parts: list[str]) -> None:
    message = str(refusal(text))
    for part in parts:
        assert part in message


def test_an_override_is_text_and_may_name_a_number_as_a_shell_does() -> None:
    overrides = ["privacy.epsilon=.5", 'federation.clients="9"', 'secagg.modulus_bits="auto"']
    settings = config.parse("", overrides)
    assert (settings.privacy.epsilon, settings.federation.clients) == (0.5, 9)


def test_overrides_are_read_as_toml_and_otherwise_as_bare_words() -> None:
    settings = config.parse(
        CONFIG,
        [
            "privacy.mode=local",
            'data.name="digits"',
            "modes.local.learning_rate = 2e-3",
            "federation.masked=false",
            "federation.vanish=[{ round = 2, client = 3, phase = 'unmask' }]",
            "model.channels=[8, 16]",
            "secagg.modulus_bits=auto",
            "modes.local.micro_batch=auto",
        ],
    )
    assert settings.privacy.mode == "local"
    assert settings.data.name == "digits"
    assert settings.modes.local.learning_rate == 2e-3
    assert settings.federation.masked is False
    assert [(event.round, event.client, event.phase) for event in settings.federation.vanish] == [
        (2, 3, "unmask")
    ]
    assert settings.model.channels == (8, 16)
    assert settings.secagg.modulus_bits == settings.modes.local.micro_batch == "auto"


def test_an_override_wins_over_the_file_and_the_last_override_over_the_first() -> None:
    text = "[federation]\nclients = 7"
    assert config.parse(text, ["federation.clients=9"]).federation.clients == 9
    assert config.parse(text, ["federation.clients=9", "federation.clients=10"]).federation.clients == 10
    assert config.parse(text, ["federation.clients=9"]).federation.clients_per_round == 6


@pytest.mark.parametrize("override", ["privacy.mode", "mode=local", "privacy.=1", ".mode=local", "=", ""])
def test_a_malformed_override_is_refused_with_its_right_form(override: str) -> None:
    assert f"expected --set section.key=value, got {override!r}" in str(refusal("", override))


def test_an_override_cannot_reach_through_a_value() -> None:
    error = refusal(CONFIG, "federation.clients.x=1")
    assert error.key == "federation.clients.x"
    assert "'clients' is a value, not a section" in str(error)


def test_a_broken_file_is_refused_with_its_name_and_the_place(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[privacy]\nmode = \n")
    with pytest.raises(ConfigError, match=r"broken\.toml is no valid TOML: .*line 2"):
        config.load(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigError, match=r"image\.png cannot be read"):
        config.load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*nowhere\.toml"):
        config.load(tmp_path / "nowhere.toml")
