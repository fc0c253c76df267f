"""The entry point called in this process, and a small configuration for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from secure_fed_diffusion import cli
from tests.cli.asking import Answer, Ask
from tests.federation.small import CONFIG


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
