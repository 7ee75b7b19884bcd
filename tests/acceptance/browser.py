"""A real browser, told what to do over a pipe: the Chrome DevTools Protocol, as much of it as a person needs."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_S = 60.0


def find() -> str | None:
    """The browser's command, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page of one browser."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self._process = process
        self._write = write
        self._read = read
        self._rest = b""
        self._number = 0
        self._session = ""
        self.messages: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + WAIT_S
        while True:
            for said in self._said(deadline - time.monotonic()):
                if said.get("id") == number:
                    assert "error" not in said, said["error"]
                    return said["result"]

    def _said(self, within_s: float) -> Iterator[dict[str, Any]]:
        ready, _, _ = select.select([self._read], [], [], max(0, within_s))
        assert ready, "the browser does not answer"
        piece = os.read(self._read, 1 << 20)
        assert piece, "the browser has ended"
        *whole, self._rest = (self._rest + piece).split(b"\0")
        for each in map(json.loads, whole):
            # What a developer would see in the console: a mistake in the page, or what its policy refused.
            if each.get("method") == "Runtime.exceptionThrown":
                self.messages.append(each["params"]["exceptionDetails"].get("exception", {}).get("description", "?"))
            if each.get("method") == "Log.entryAdded" and each["params"]["entry"]["level"] == "error":
                self.messages.append(each["params"]["entry"]["text"])
            yield each

    def open(self, url: str) -> None:
        """Go to an address."""
        self._call("Page.navigate", url=url)

    def reload(self) -> None:
        """Load the page again."""
        self.run("window.before = true")
        self._call("Page.reload")
        self.until("!window.before && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        said = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, condition: str, within_s: float = WAIT_S) -> None:
        """Wait until an expression is true; in a page that is loading it may be none yet."""
        deadline = time.monotonic() + within_s
        while not self.run(f"(() => {{ try {{ return Boolean({condition}) }} catch {{ return false }} }})()"):
            assert time.monotonic() < deadline, f"never: {condition}\n{self.text()}\n{self.messages}"
            time.sleep(0.05)

    def text(self) -> str:
        """What stands on the page."""
        return str(self.run("document.body.innerText"))

    def shows(self, text: str, within_s: float = WAIT_S) -> None:
        """Wait until a text stands on the page."""
        self.until(f"document.body.innerText.includes({json.dumps(text)})", within_s)

    def type(self, text: str) -> None:
        """Type into what has the focus, and press Enter."""
        self._call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
            self._call("Input.dispatchKeyEvent", type=kind, **key)

    def click(self, selector: str, text: str = "") -> None:
        """Click on the first element there is of a selector whose text begins so, where a person would."""
        place = self.run(
            f"(() => {{ const found = [...document.querySelectorAll({json.dumps(selector)})].find((each) => "
            f"each.textContent.startsWith({json.dumps(text)})); found.scrollIntoView({{ block: 'center' }}); "
            "const box = found.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def look(self, *, width: int = 1200, height: int = 800, dark: bool = False) -> None:
        """The size of the window, and whether the person likes it dark."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, file: Path) -> None:
        """What it looks like, as PNG."""
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(command: str, folder: Path) -> Iterator[Browser]:
    """A browser without a window, with a profile in `folder`."""
    theirs_read, write = os.pipe()
    read, theirs_write = os.pipe()

    def give() -> None:
        # Where the browser looks for its pipes.
        os.dup2(theirs_read, 3)
        os.dup2(theirs_write, 4)

    process = subprocess.Popen(
        [
            *(command, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--remote-debugging-pipe", f"--user-data-dir={folder}", "--disable-background-networking"),
        ],
        pass_fds=(3, 4),
        preexec_fn=give,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(theirs_read)
    os.close(theirs_write)
    try:
        yield Browser(process, write, read)
    finally:
        os.close(write)
        os.close(read)
        process.kill()
        process.wait(30)
