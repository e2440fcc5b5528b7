"""The page, in a real browser: photos are dropped or chosen, engines compared, with the keyboard and on a phone."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import chromium
from tests.serving.running import PATIENCE_S, Server

SCREENSHOTS = os.environ.get("ALEXNET_DEPLOY_SCREENSHOTS")
"""A folder for pictures of the page, for people."""


class Visit:
    """The page in a new tab."""

    def __init__(self, browser: chromium.Browser, server: Server, folder: Path, **window: Any) -> None:
        self.browser, self.origin = browser, f"http://127.0.0.1:{server.port}"
        self.width = window.get("width", 1280)
        (folder / "empty.html").write_text("<!doctype html>")
        browser.open(folder / "empty.html", **window)
        browser.requests.clear()
        browser.call("Page.navigate", url=f"{self.origin}/")
        browser.wait(lambda message: message.get("method") == "Page.loadEventFired")
        self.until("document.querySelectorAll('#engines input').length === 3")

    def until(self, expression: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self.browser.ask(expression):
            assert time.monotonic() < deadline, (expression, self.text("body"), self.browser.complaints)

    def text(self, selector: str) -> str:
        return str(self.browser.ask(f"document.querySelector('{selector}').innerText"))

    def key(self, name: str, text: str = "") -> None:
        code = {"Tab": 9, " ": 32}[name]
        key = {"key": name, "code": "Space" if name == " " else name, "windowsVirtualKeyCode": code}
        self.browser.call("Input.dispatchKeyEvent", type="keyDown", text=text, **key)
        self.browser.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def drop(self, *files: Path) -> None:
        place = {"x": 100, "y": 180, "data": {"items": [], "files": list(map(str, files)), "dragOperationsMask": 1}}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.browser.call("Input.dispatchDragEvent", type=kind, **place)

    def picture(self, name: str) -> None:
        if SCREENSHOTS:
            shot = self.browser.call("Page.captureScreenshot", captureBeyondViewport=True)
            Path(SCREENSHOTS, f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def is_clean(self) -> None:
        """Nothing from elsewhere, nothing in the console, nothing wider than the window."""
        assert self.browser.complaints == []
        wanted = (f"{self.origin}/", "data:", f"blob:{self.origin}")
        assert all(url.startswith(wanted) for url in self.browser.requests), self.browser.requests
        assert self.browser.ask("document.documentElement.scrollWidth") <= self.width


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)], ids=["desk", "phone"])
def test_dropped_photos_are_answered_by_engines_side_by_side(
    browser: chromium.Browser,
    server: Server,
    workplace: Path,
    photos: list[Path],
    tmp_path: Path,
    width: int,
    dark: bool,
) -> None:
    visit = Visit(browser, server, tmp_path, width=width, dark=dark)
    broken = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    broken.write_bytes(b"no image")
    browser.ask("document.querySelector('#engines input[value=ruined]').click()")
    visit.drop(workplace / photos[0], broken, workplace / photos[-1])
    visit.until("document.querySelector('#status').textContent === '2 of 3 photos classified, 1 could not be'")
    visit.picture(f"page-{width}")
    good, bad, _ = (browser.ask(f"document.querySelectorAll('article')[{number}].innerText") for number in range(3))
    wanted = server.ask("POST", "/classify?engine=exact", (workplace / photos[0]).read_bytes()).json()[0]["top"][0]
    assert photos[0].name in good
    assert f"{100 * wanted['probability']:.1f} %" in good
    for part in ("exact", "ruined", "int8", "fp32", "compute", "queue", "decode", "in all"):
        assert part in good, part
    assert broken.name in bad
    assert "is not an image of a known format" in bad
    visit.is_clean()


def test_the_page_is_used_by_keyboard(
    browser: chromium.Browser, server: Server, workplace: Path, photos: list[Path], tmp_path: Path
) -> None:
    visit = Visit(browser, server, tmp_path)
    visit.key("Tab")
    assert browser.ask("document.activeElement.id") == "files"
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=document, selector="#files")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(workplace / photos[0])])
    visit.until("document.querySelector('#status').textContent === '1 of 1 photos classified'")
    assert browser.ask("document.querySelectorAll('.results h3').length") == 1
    visit.key("Tab")
    visit.key("Tab")
    assert browser.ask("document.activeElement.value") == "exact@onnxruntime"
    visit.key(" ", " ")
    visit.until("document.querySelectorAll('.results table').length === 2")
    assert browser.ask("document.querySelector('#status').getAttribute('aria-live')") == "polite"
    visit.is_clean()


def test_the_interface_is_described_for_people(browser: chromium.Browser, server: Server, tmp_path: Path) -> None:
    visit = Visit(browser, server, tmp_path, width=360)
    browser.call("Page.navigate", url=f"{visit.origin}/docs")
    browser.wait(lambda message: message.get("method") == "Page.loadEventFired")
    operations = server.ask("GET", "/openapi.json").json()["paths"]
    visit.until("document.querySelectorAll('article').length > 0")
    titles = browser.ask("[...document.querySelectorAll('article h2')].map(title => title.innerText).join('|')")
    wanted = [
        f"{method.upper()} {path}" for path, item in operations.items() for method in item if method != "parameters"
    ]
    assert sorted(titles.split("|")) == sorted(wanted)
    assert "one of exact, exact@onnxruntime, ruined" in visit.text("main")
    assert browser.ask("getComputedStyle(document.querySelector('dl')).display") == "grid"  # the style is permitted
    visit.picture("docs")
    visit.is_clean()


def test_the_interface_is_described_as_text_for_curl(server: Server) -> None:
    answer = server.ask("GET", "/docs", headers={"accept": "*/*"})
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    text = answer.body.decode()
    assert "POST /v2/models/{model}/infer\n    Open Inference Protocol" in text
    assert "query top_k: integer from 1 to 999999999, 5 if left out" in text
    assert "<" not in text


def test_the_page_has_no_script_or_style_of_its_own(server: Server) -> None:
    html = server.ask("GET", "/").body.decode()
    assert html.count("<script") == 1
    assert "<style" not in html
    assert " style=" not in html
    assert "http:" not in html
    assert "https:" not in html
