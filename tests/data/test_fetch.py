"""`sfd data` against a server of our own: resumed, verified, placed whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from secure_fed_diffusion import cli
from secure_fed_diffusion.data import fetch as fetching
from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.data.settings import DIRECTORY_VARIABLE, DataSettings
from secure_fed_diffusion.data.sources import SOURCES
from secure_fed_diffusion.errors import ConfigError, DataError
from tests.data import stand_ins

COUNTS = (60, 12, 20)


class Publisher(ThreadingHTTPServer):
    """Serves `files`; `ranges` and `break_after` decide how well it does that."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.wrong_range = False
        self.break_after: list[int] = []  # bytes after which each of the next answers breaks off
        self.redirect_to: str | None = None
        self.requests: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files/"


class _Answer(BaseHTTPRequestHandler):
    server: Publisher

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        name, wanted = self.path.rsplit("/", 1)[1], self.headers["Range"]
        self.server.requests.append((name, wanted))
        if self.server.redirect_to is not None:
            self.send_response(302)
            self.send_header("Location", self.server.redirect_to)
            self.end_headers()
            return
        if name not in self.server.files:
            self.send_error(404)
            return
        content, begin = self.server.files[name], 0
        if wanted and self.server.ranges:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(content):
                self.send_error(416)
                return
            begin -= self.server.wrong_range
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        rest = content[begin:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        cut = self.server.break_after.pop(0) if self.server.break_after else None
        self.wfile.write(rest[:cut])


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setattr(fetching, "TIMEOUT_SECONDS", 5.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Publisher()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class Heard:
    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int | None]] = []
        self.done = 0

    def begin(self, filename: str, done: int, total: int | None) -> None:
        self.begun.append((filename, done, total))

    def advance(self, done: int) -> None:
        self.done = done


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch, publisher: Publisher) -> tuple[Any, bytes]:
    files, _ = stand_ins.published("cifar10", COUNTS)
    publisher.files = files
    source = stand_ins.declare(monkeypatch, "cifar10", files, COUNTS, (publisher.address,))
    return source, files["cifar-10-python.tar.gz"]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "svhn", "pathmnist_64"])
def test_what_was_fetched_is_what_a_run_loads(name, publisher, monkeypatch, tmp_path):
    files, (images, labels) = stand_ins.published(name, COUNTS)
    publisher.files = files
    source = stand_ins.declare(monkeypatch, name, files, COUNTS, (publisher.address,))
    fetched = fetching.fetch(source, tmp_path / "new", Heard())
    assert {file.path.name: file.path.read_bytes() for file in fetched} == files
    assert all(file.verified and not file.was_here for file in fetched)
    assert [file.sha256 for file in fetched] == [
        hashlib.sha256(content).hexdigest() for content in files.values()
    ]
    assert not list(tmp_path.rglob("*.part"))
    if source.layout == "idx":
        test, test_labels = stand_ins.records((1, 28, 28), COUNTS[2], 10, seed=1)
        stand_ins.pin(
            monkeypatch,
            name,
            {"x_train": images[:, 0], "y_train": labels, "x_test": test[:, 0], "y_test": test_labels},
        )
    assert len(load(DataSettings(name=name, directory=str(tmp_path / "new"))).train) == COUNTS[0]


def test_a_second_fetch_asks_nobody(cifar, publisher, tmp_path):
    source, _ = cifar
    fetching.fetch(source, tmp_path, Heard())
    publisher.requests.clear()
    (again,) = fetching.fetch(source, tmp_path, Heard())
    assert again.was_here
    assert publisher.requests == []


def test_a_broken_connection_is_taken_up_where_it_ended(cifar, publisher, tmp_path):
    source, content = cifar
    publisher.break_after = [1000, 500]
    heard = Heard()
    (found,) = fetching.fetch(source, tmp_path, heard)
    assert found.path.read_bytes() == content
    assert [wanted for _, wanted in publisher.requests] == [None, "bytes=1000-", "bytes=1500-"]
    assert heard.begun == [("cifar-10-python.tar.gz", done, len(content)) for done in (0, 1000, 1500)]
    assert heard.done == len(content)


def test_a_later_command_takes_up_what_an_earlier_one_left(cifar, publisher, tmp_path):
    source, content = cifar
    publisher.break_after = [100, 0]  # and then nothing new: the command gives up
    with pytest.raises(DataError, match=r"tar\.gz\.part keeps 100 bytes, the same command goes on"):
        fetching.fetch(source, tmp_path, Heard())
    assert not (tmp_path / "cifar-10-python.tar.gz").exists()
    publisher.requests.clear()
    (found,) = fetching.fetch(source, tmp_path, Heard())
    assert found.path.read_bytes() == content
    assert publisher.requests == [("cifar-10-python.tar.gz", "bytes=100-")]


@pytest.mark.parametrize("fault", ["no ranges", "another range", "another file's", "longer", "whole"])
def test_whatever_lies_in_the_part_file_the_end_is_the_published_file(fault, cifar, publisher, tmp_path):
    source, content = cifar
    left = {"another file's": b"?" * 50, "longer": content + b"?", "whole": content}
    part = tmp_path / "cifar-10-python.tar.gz.part"
    part.write_bytes(left.get(fault, content[:50]))
    publisher.ranges, publisher.wrong_range = fault != "no ranges", fault == "another range"
    (found,) = fetching.fetch(source, tmp_path, Heard())
    assert found.path.read_bytes() == content
    assert not part.exists()
    if fault == "whole":
        assert len(publisher.requests) == 1


def test_a_file_with_another_md5_never_gets_its_name(cifar, publisher, tmp_path):
    source, content = cifar
    publisher.files = {"cifar-10-python.tar.gz": content[:-1] + b"?"}
    with pytest.raises(DataError, match=f"MD5 [0-9a-f]{{32}}, expected {source.files[0].md5}"):
        fetching.fetch(source, tmp_path, Heard())
    assert list(tmp_path.iterdir()) == []


def test_an_altered_file_in_place_is_refused_and_left_alone(cifar, publisher, tmp_path):
    source, _ = cifar
    mine = tmp_path / "cifar-10-python.tar.gz"
    mine.write_bytes(b"mine")
    with pytest.raises(DataError, match="was altered or is another file"):
        fetching.fetch(source, tmp_path, Heard())
    assert mine.read_bytes() == b"mine"
    assert publisher.requests == []


def test_the_second_address_is_asked_when_the_first_does_not_answer(cifar, publisher, monkeypatch, tmp_path):
    _, content = cifar
    dead = "http://127.0.0.1:9/files/"
    source = stand_ins.declare(monkeypatch, "cifar10", publisher.files, COUNTS, (dead, publisher.address))
    (found,) = fetching.fetch(source, tmp_path, Heard())
    assert found.path.read_bytes() == content


def test_offline_one_error_says_what_to_put_where(cifar, monkeypatch, publisher, tmp_path):
    dead = "http://127.0.0.1:9/files/"
    source = stand_ins.declare(monkeypatch, "cifar10", publisher.files, COUNTS, (dead,))
    with pytest.raises(DataError) as caught:
        fetching.fetch(source, tmp_path, Heard())
    for part in (
        f"{dead}cifar-10-python.tar.gz",
        source.files[0].md5,
        str(tmp_path / "cifar-10-python.tar.gz"),
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x"])
def test_a_redirect_to_anything_but_http_is_refused(target, cifar, publisher, tmp_path):
    publisher.redirect_to = target
    with pytest.raises(DataError, match="could not be fetched"):
        fetching.fetch(cifar[0], tmp_path, Heard())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("base", ["file:///tmp/", "ftp://example.org/", "/tmp", "http:///x"])
def test_from_takes_http_addresses_alone(base, cifar, tmp_path):
    with pytest.raises(ConfigError, match="--from: expected an http or https address"):
        fetching.fetch(cifar[0], tmp_path, Heard(), base=base)


def test_a_file_larger_than_the_free_disk_or_the_bound_is_refused(cifar, monkeypatch, tmp_path):
    monkeypatch.setattr(fetching, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="expected at most 1000"):
        fetching.fetch(cifar[0], tmp_path, Heard())
    monkeypatch.undo()
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match="has 1000 bytes free"):
        fetching.fetch(cifar[0], tmp_path, Heard())


def sfd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["sfd", *(str(word) for word in words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_command_fetches_from_another_address_with_plain_lines_of_progress(
    cifar, publisher, monkeypatch, capsys, tmp_path
):
    stand_ins.declare(monkeypatch, "cifar10", publisher.files, COUNTS, ("http://127.0.0.1:9/",))
    status, out, err = sfd(
        monkeypatch, capsys, "data", "fetch", "cifar10", "--dir", tmp_path, "--from", publisher.address
    )
    assert status == 0, err
    assert "cifar-10-python.tar.gz: fetched" in out
    assert "MD5 as published, SHA-256 " in out
    assert "(100 %)" in err
    assert "\x1b" not in err


def test_the_command_speaks_json_and_takes_the_folder_from_the_environment(
    cifar, publisher, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    status, out, err = sfd(monkeypatch, capsys, "data", "fetch", "cifar10", "--json")
    (file,) = json.loads(out)["files"]
    assert (status, err, file["path"]) == (0, "", str(tmp_path / "cifar-10-python.tar.gz"))
    status, out, _ = sfd(monkeypatch, capsys, "data", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)["sets"]}
    assert rows.keys() == SOURCES.keys()
    assert {name: row["state"] for name, row in rows.items() if row["state"] != "missing"} == {
        "digits": "installed",
        "cifar10": "here",
    }
    assert rows["dermamnist"]["licence"] == "CC BY-NC 4.0"
    assert [name for name, row in rows.items() if row["checksum"] == "unverified"] == []


def test_the_list_says_when_a_set_is_there_in_part(monkeypatch, capsys, tmp_path):
    (tmp_path / "train_32x32.mat").write_bytes(b"half of SVHN")
    status, out, _ = sfd(monkeypatch, capsys, "data", "list", "--dir", tmp_path)
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert status == 0
    assert "incomplete" in lines["svhn"]
    assert "missing" in lines["cifar10"]


@pytest.mark.parametrize("by", ["--dir", DIRECTORY_VARIABLE])
def test_the_list_says_when_its_folder_is_none(by, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    for name, lacks in (("nothere", "is not there"), ("file", "is no folder")):
        monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / name))
        words = ("--dir", tmp_path / name) if by == "--dir" else ()
        status, out, _ = sfd(monkeypatch, capsys, "data", "list", *words)
        assert status == 0
        assert "missing" not in out
        assert out.splitlines()[-1] == f"No data folder: {tmp_path / name}, which {by} names, {lacks}."


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("fetch", "cifar"), 2, "NAME: expected one of .*did you mean 'cifar10'"),
        (("fetch", "digits"), 2, "NAME: digits has no public address: it travels with scikit-learn"),
        (("fetch", "pneumonia", "--dir", "."), 2, r"put pneumonia_subset\.npz into the data folder"),
        (("fetch", "svhn"), 2, "--dir: expected the folder to put svhn into, or SFD_DATA_DIR set"),
        (("fetch", "svhn", "--dir", "/dev/null/x"), 1, "cannot be made"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_that_says_why(words, status, message, monkeypatch, capsys):
    monkeypatch.delenv(DIRECTORY_VARIABLE, raising=False)
    found, _, err = sfd(monkeypatch, capsys, "data", *words)
    assert found == status
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err


def test_a_run_without_its_files_names_the_command_and_downloads_nothing(cifar, publisher, tmp_path):
    with pytest.raises(DataError, match="sfd data fetch cifar10"):
        load(DataSettings(name="cifar10", directory=str(tmp_path)))
    assert publisher.requests == []
    assert list(Path(tmp_path).iterdir()) == []
