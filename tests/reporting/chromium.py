"""A page in a real browser, over DevTools' pipe: console, requests, widths, clicks; no dependency."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PATIENCE_SECONDS = 60.0


def find_browser() -> str:
    """Return the path of a browser; skip the test where there is none, fail where one is demanded."""
    if BROWSER is None:
        reason = "no chromium, chromium-browser or google-chrome on the path"
        if os.environ.get("SFD_REQUIRE_BROWSER") == "1":
            pytest.fail(f"SFD_REQUIRE_BROWSER=1, but {reason}")
        pytest.skip(reason)
    return BROWSER


class Tab:
    """One tab of a headless browser, driven through file descriptors 3 and 4."""

    def __init__(self, browser: str, profile: Path) -> None:
        # high numbers, so that 3 and 4 are free for the child
        to_browser, self._out = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in os.pipe())
        self._in, from_browser = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in os.pipe())

        def pipes() -> None:
            os.dup2(to_browser, 3)
            os.dup2(from_browser, 4)

        command = [browser, "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"]
        command += ["--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={profile}"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            command,
            preexec_fn=pipes,
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._last = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result; events that come first are kept."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, page: Path, *, width: int = 1280, scripts: bool = True, dark: bool = False) -> None:
        """Load a file at a width in CSS pixels and wait until it is complete."""
        self.events.clear()
        mobile = width < 500
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=mobile
        )
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=page.as_uri())
        end = time.monotonic() + _PATIENCE_SECONDS
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive(end))

    def wait_for(self, method: str, **wanted: Any) -> None:
        """Wait for an event with these parameters."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while not any(
            event.get("method") == method and wanted.items() <= event["params"].items()
            for event in self.events
        ):
            self.events.append(self._receive(end))

    def evaluate(self, expression: str) -> Any:
        """Return what an expression of JavaScript is in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def complaints(self) -> list[str]:
        """Return console messages, errors, and log entries (a blocked request is one) so far."""
        loud = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"])[:500] for event in self.events if event.get("method") in loud]

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for, its own file and data inside it left out."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")][1:]

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser did not answer in time"
            data = os.read(self._in, 1 << 16)
            assert data, "the browser went away"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def open_tab(profile: Path) -> Iterator[Tab]:
    """Start a browser for one test."""
    with Tab(find_browser(), profile) as tab:
        yield tab
