"""A headless Chromium, driven over a pipe (Chrome DevTools Protocol): how a page is laid out, and what it requests."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
FLAGS = (
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--hide-scrollbars",
)  # fmt: skip
TIMEOUT_S = 60  # a busy machine starts it in ten

_ON_3_AND_4 = """
import os, sys
from fcntl import F_DUPFD, fcntl
read, write = (fcntl(int(fd), F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find() -> str | None:
    """The program in the environment variable CHROMIUM, or else one on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A running Chromium. ``requests`` is what the page in its tab loads, ``complaints`` what its console shows."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._buffer, self._calls = write, read, b"", 0
        self._tab: dict[str, str] = {}
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def open(self, path: Path, *, width: int = 1280, dark: bool = False, media: str = "screen") -> None:
        """Load a file into a new tab, watched from the start, in a window ``width`` pixels wide."""
        self._tab = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._tab = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.requests, self.complaints = [], []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait(lambda message: message.get("method") == "Page.loadEventFired")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def pdf(self, path: Path) -> None:
        """Print the page, on the paper size of its own style."""
        self.call("Emulation.setEmulatedMedia", media="", features=[])
        printed = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        path.write_bytes(base64.b64decode(printed["data"]))

    def call(self, method: str, **params: Any) -> Any:
        """Send one command of the protocol and return its result; AssertionError if the browser refuses it."""
        self._calls += 1
        mine = self._calls
        message = {"id": mine, "method": method, "params": params} | self._tab
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self.wait(lambda message: message.get("id") == mine)
        assert "error" not in answer, answer
        return answer["result"]

    def wait(self, wanted: Any) -> Any:
        """Return the next message that is ``wanted``; events of the page are recorded meanwhile."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            while b"\0" not in self._buffer:
                ready, _, _ = select.select([self._read], [], [], max(deadline - time.monotonic(), 0))
                assert ready, "Chromium does not answer"
                piece = os.read(self._read, 1 << 20)
                assert piece, "Chromium has ended"
                self._buffer += piece
            line, _, self._buffer = self._buffer.partition(b"\0")
            message = json.loads(line)
            method = message.get("method")
            if method == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"]))
            if wanted(message):
                return message


@contextlib.contextmanager
def running(program: str, profile: Path) -> Iterator[Browser]:
    """Run a browser with its own profile until the block ends."""
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    command = [sys.executable, "-c", _ON_3_AND_4, str(theirs_in), str(theirs_out), program, *FLAGS]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}"],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_out, ours_in)
    finally:
        with contextlib.suppress(BrokenPipeError):
            os.write(ours_out, b'{"id":0,"method":"Browser.close"}\0')
        try:
            process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_out)
        os.close(ours_in)
