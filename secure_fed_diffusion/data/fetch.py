"""Download a published image set, because a person asked for it; a run never does.

Each file goes to `NAME.part` first, grows there over as many attempts as it takes (HTTP ranges), and gets its
own name only when its MD5 is the published one: a file under its own name is whole.  Only http and https are
spoken, redirects included.

Not protected against: a publisher that changes a file on purpose (the MD5 then refuses it), a forger of MD5
second preimages, a proxy that sees what is fetched.  What is fetched is public; asking for it tells the
publisher your address.

>>> address_of("https://example.org/files/", "a.npz"), address_of("https://example.org/a.npz", "a.npz")
('https://example.org/files/a.npz', 'https://example.org/a.npz')
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from secure_fed_diffusion._version import VERSION
from secure_fed_diffusion.data.published import FILES, md5_of, require_md5
from secure_fed_diffusion.data.sources import Source, SourceFile
from secure_fed_diffusion.errors import ConfigError, DataError

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 3
"""How often one address is asked again after a connection that broke off, each time for the rest."""

MAX_BYTES = 1 << 32
_BLOCK_BYTES = 1 << 18
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_BROKEN = (OSError, http.client.HTTPException, urllib.error.URLError)


class Progress(Protocol):
    """Hears how far the download is."""

    def begin(self, filename: str, done: int, total: int | None) -> None:
        """A file of `total` bytes begins, or goes on after `done` of them; None: its size is not known."""

    def advance(self, done: int) -> None:
        """`done` bytes of the file that was begun last are on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """One file that is now in place; `sha256` is of its bytes, for your own records."""

    path: Path
    n_bytes: int
    sha256: str
    verified: bool  # by a published MD5; else the pinned content is checked by loading
    was_here: bool


class _CannotRange(Exception):
    """The server's answer does not fit what is on disk already: begin again from nothing."""


def fetch(source: Source, directory: Path, progress: Progress, *, base: str | None = None) -> list[Fetched]:
    """Bring every file of `source` into `directory`; those that are there and whole stay as they are.

    `base` is an address to ask instead of the publisher's: a folder's, or the one file's own.

    Raises:
        ConfigError: there is nothing to fetch, or `base` is no http(s) address.
        DataError: no address answered, a file is not the published one, or the disk is full.
    """
    if not source.files or not (base or source.addresses):
        raise ConfigError(f"{source.name} has no public address: {_by_hand(source)}", key="NAME")
    if base is not None and (urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).netloc):
        raise ConfigError(f"expected an http or https address, got {base!r}", key="--from")
    home = source.home(directory)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{home} cannot be made: {error.strerror or error}") from None
    if source.layout == "idx" and (archive := directory / FILES[source.name].filename).is_file():
        return [_fetched(archive, verified=False, was_here=True)]
    return [_fetch_file(source, file, directory, progress, base) for file in source.files]


def address_of(base: str, filename: str) -> str:
    """Return the address of `filename` in a folder `base`, or `base` itself where it names the file."""
    return base if urlsplit(base).path.endswith(f"/{filename}") else f"{base.rstrip('/')}/{filename}"


def _by_hand(source: Source) -> str:
    if source.layout == "installed":
        return "it travels with scikit-learn and needs no file"
    return f"put {', '.join(file.filename for file in source.files)} into the data folder"


def _fetch_file(
    source: Source, file: SourceFile, directory: Path, progress: Progress, base: str | None
) -> Fetched:
    here = source.find(directory, file)
    if here is not None:
        published = here.name == file.filename  # else unpacked: its content is pinned, and checked by loading
        if published:
            require_md5(here, source, file)
        return _fetched(here, verified=published and file.md5 is not None, was_here=True)
    target = source.home(directory) / file.filename
    part = target.with_name(f"{target.name}.part")
    addresses = [address_of(each, file.filename) for each in ([base] if base else source.addresses)]
    reasons: list[str] = []
    for address in addresses:
        try:
            found = _download_whole(address, part, progress, file)
        except _BROKEN as error:
            reasons.append(f"{urlsplit(address).netloc}: {_reason(error)}")
            continue
        if file.md5 in (None, found):
            os.replace(part, target)
            return _fetched(target, verified=file.md5 is not None, was_here=False)
        part.unlink()
        reasons.append(f"{urlsplit(address).netloc}: MD5 {found}, expected {file.md5}")
    kept = f"; {part} keeps {part.stat().st_size} bytes, the same command goes on" if part.exists() else ""
    raise DataError(
        f"{file.filename} of {source.name} could not be fetched ({'; '.join(reasons)}){kept}. By hand: "
        f"download {' or '.join(addresses)} (MD5 {file.md5 or 'unverified'}) on a machine that can, and put "
        f"it at {target}"
    )


def _fetched(path: Path, *, verified: bool, was_here: bool) -> Fetched:
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return Fetched(
        path=path, n_bytes=path.stat().st_size, sha256=digest, verified=verified, was_here=was_here
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _download_whole(address: str, part: Path, progress: Progress, file: SourceFile) -> str:
    """Complete `part` and return its MD5; what an earlier attempt left is dropped if the whole is wrong."""
    resumed = part.exists()
    _download(address, part, progress, file)
    found = md5_of(part)
    if resumed and file.md5 not in (None, found):
        part.unlink()
        _download(address, part, progress, file)
        found = md5_of(part)
    return found


def _download(address: str, part: Path, progress: Progress, file: SourceFile) -> None:
    """Complete `part` from `address`; whatever was there is taken for the beginning of the same file."""
    for attempt in range(1, ATTEMPTS + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            return _continue(address, part, before, progress, file)
        except _CannotRange:
            part.unlink(missing_ok=True)
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                raise
            if file.md5 is not None and md5_of(part) == file.md5:
                return None  # it was whole: the last attempt ended just before it was renamed
            part.unlink()
        except _BROKEN:
            grown = part.exists() and part.stat().st_size > before
            if attempt == ATTEMPTS or not grown:
                raise
    raise OSError(f"no whole answer in {ATTEMPTS} attempts")


def _continue(address: str, part: Path, before: int, progress: Progress, file: SourceFile) -> None:
    headers = {"User-Agent": f"secure-fed-diffusion/{VERSION}", "Accept-Encoding": "identity"}
    if before:
        headers["Range"] = f"bytes={before}-"
    request = urllib.request.Request(address, headers=headers)
    with _opener().open(request, timeout=TIMEOUT_SECONDS) as answer:
        begin, total = _extent(answer, before)
        if (total or 0) > MAX_BYTES:
            raise DataError(f"{address} has {total} bytes, expected at most {MAX_BYTES}")
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - begin > free:
            raise DataError(
                f"{part.parent} has {free} bytes free, {file.filename} needs {total - begin} more: make "
                f"room, or choose another data folder"
            )
        progress.begin(file.filename, begin, total)
        done = begin
        with part.open("ab" if begin else "wb") as out:
            while block := answer.read(_BLOCK_BYTES):
                done += len(block)
                if done > MAX_BYTES:
                    raise DataError(f"{address} sends more than {MAX_BYTES} bytes")
                out.write(block)
                progress.advance(done)
            out.flush()
            os.fsync(out.fileno())
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done} of {total} bytes")


def _extent(answer: http.client.HTTPResponse, before: int) -> tuple[int, int | None]:
    """Return at which byte the answer begins and how long the whole file is."""
    if answer.status == http.client.PARTIAL_CONTENT:
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != before:
            raise _CannotRange
        return before, None if found[3] == "*" else int(found[3])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone; proxies are taken from the environment."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
