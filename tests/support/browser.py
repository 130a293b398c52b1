"""Chromium without a window, driven over a pipe by its DevTools protocol. Needs no package of Python."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--remote-debugging-pipe",
)  # fmt: skip
_SECONDS = 60.0
_FIRST_FREE = 10  # Chromium reads commands at descriptor 3, and answers at 4


def program() -> str | None:
    """Where Chromium is; None where it is not installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A browser with one page. `said` has what the page wrote to its console, and what the browser logged of it."""

    def __init__(self, path: str, folder: Path) -> None:
        self._path = path
        self._folder = folder
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session = ""
        self.said: list[str] = []
        self.requested: list[str] = []

    def __enter__(self) -> Browser:
        read, to_browser = os.pipe()
        from_browser, write = os.pipe()
        given = [fcntl.fcntl(end, fcntl.F_DUPFD, _FIRST_FREE) for end in (read, write)]
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, each, os.devnull, os.O_RDWR, 0) for each in range(3)]
        actions += [(os.POSIX_SPAWN_DUP2, end, each) for end, each in zip(given, (3, 4), strict=True)]
        command = [self._path, *_OPTIONS, f"--user-data-dir={self._folder}", "about:blank"]
        self._pid = os.posix_spawn(self._path, command, os.environ, file_actions=actions)
        for end in (read, write, *given):
            os.close(end)
        self._to, self._from = to_browser, from_browser
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, TimeoutError, EOFError):
            self._session = ""
            self.call("Browser.close")
        os.close(self._to)
        os.close(self._from)  # a browser whose pipe is closed ends too
        os.waitpid(self._pid, 0)

    def open(self, path: Path, width: int, scheme: str) -> None:
        """Show a file in a window of this width, with `light` or `dark` preferred."""
        self.said.clear()
        self.requested.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._wait_for("Page.loadEventFired")

    def value(self, script: str) -> Any:
        """What an expression of JavaScript gives, as JSON."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG file."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command and its answer."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = next(each for each in self._messages() if each.get("id") == number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]  # type: ignore[no-any-return]

    def _wait_for(self, event: str) -> None:
        next(each for each in self._messages() if each.get("method") == event)

    def _messages(self) -> Iterator[dict[str, Any]]:
        """Messages as they come; those of the console and the network are kept."""
        deadline = time.monotonic() + _SECONDS
        while True:
            while b"\0" not in self._rest:
                if not select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    raise TimeoutError(f"the browser did not answer for {_SECONDS} seconds")
                read = os.read(self._from, 1 << 16)
                if not read:
                    raise EOFError("the browser has ended")
                self._rest += read
            text, self._rest = self._rest.split(b"\0", 1)
            message = json.loads(text)
            self._note(message)
            yield message

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Log.entryAdded":
            self.said.append(str(parameters["entry"]["text"]))
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.said.append(json.dumps(parameters))
        elif method == "Network.requestWillBeSent":
            self.requested.append(str(parameters["request"]["url"]))
