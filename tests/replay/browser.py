"""A program that measures pages with QtWebEngine (Chromium) and prints the findings as JSON.

It is a separate program because the engine needs its own flags, threads and event loop. Run as
`python browser.py light|dark FOLDER PAGE…`; pictures and PDF files go into the folder. It exits
with 77 and a line on standard error if the engine cannot be started.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CANNOT_START = 77
WIDTHS = (360, 1280)
# The engine's numbers for them.
SCHEMES = {"dark": 0, "light": 1}
_HEIGHT = 900
_PICTURE_HEIGHT_MAX = 3_000
_STILL_MS = 300
_TIMEOUT_MS = 60_000

# There is no screen, and no sandbox for root; only the pages of the tests are opened.
_FLAGS = "--no-sandbox --disable-gpu --disable-background-networking"

# Measures sizes, overflow, and the lowest contrast of any text.
LOOK = r"""
(() => {
  const luminance = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const numbers = (color) => (color.match(/[\d.]+/g) || []).map(Number);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = numbers(getComputedStyle(each).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  let least = {contrast: 21, text: ""};
  for (const element of document.querySelectorAll("main *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || element.closest("svg") || !element.getClientRects().length) continue;
    const [a, b] = [numbers(getComputedStyle(element).color), behind(element)].map(luminance);
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < least.contrast) least = {contrast, text: element.textContent.slice(0, 60)};
  }
  const root = document.documentElement;
  const beyond = [...document.querySelectorAll("main *")]
    .filter((e) => !e.closest("svg") && e.getBoundingClientRect().right > root.clientWidth + 0.5
      && getComputedStyle(e).clipPath === "none" && !e.closest("thead"))
    .map((e) => e.outerHTML.slice(0, 120));
  const texts = (selector) => [...document.querySelectorAll(selector)].map((e) => e.innerText);
  return JSON.stringify({
    title: document.title,
    headings: texts("h1, h2, h3"),
    badges: texts(".report > .lead .badge"),
    rows: document.querySelectorAll("tr.turn").length,
    marked: texts(".text mark"),
    charts: [...document.querySelectorAll("svg")].map((e) => {
      const box = e.getBoundingClientRect();
      const strokes = [...e.querySelectorAll("path")].map((p) => p.getTotalLength());
      return {width: box.width, height: box.height, drawn: strokes.some((v) => v > 0),
              name: e.querySelector("title").textContent};
    }),
    viewport: root.clientWidth,
    width: Math.max(root.scrollWidth, document.body.scrollWidth),
    height: root.scrollHeight,
    beyond: beyond.slice(0, 5),
    least,
    background: getComputedStyle(document.body).backgroundColor,
    styled: getComputedStyle(document.body).marginTop === "0px",
    scripts: document.scripts.length,
    text: document.body.innerText.slice(0, 20000),
  });
})()
"""


def wait(start: Callable[[Callable[..., None]], object]) -> Any:
    """Call `start` with a callback, run the event loop, and return the callback's last argument.

    Raise TimeoutError if the callback is not called within a minute.
    """
    from PySide6.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    answers: list[Any] = []

    def done(*answer: Any) -> None:
        answers.append(answer[-1] if answer else None)
        loop.quit()

    QTimer.singleShot(_TIMEOUT_MS, loop.quit)
    start(done)
    if not answers:
        loop.exec()
    if not answers:
        raise TimeoutError("the engine did not answer")
    return answers[0]


class Browser:
    """A window with one page, which lists its requests and its console messages."""

    def __init__(self) -> None:
        from PySide6.QtWebEngineCore import (
            QWebEnginePage,
            QWebEngineProfile,
            QWebEngineSettings,
            QWebEngineUrlRequestInterceptor,
        )
        from PySide6.QtWebEngineWidgets import QWebEngineView
        from PySide6.QtWidgets import QApplication

        requests: list[str] = []
        messages: list[str] = []

        class Requests(QWebEngineUrlRequestInterceptor):
            def interceptRequest(self, info: Any) -> None:
                requests.append(info.requestUrl().toString())

        class Page(QWebEnginePage):
            def javaScriptConsoleMessage(
                self, level: Any, text: str, line: int, source: str
            ) -> None:
                messages.append(f"{text} ({source}:{line})")

            def javaScriptAlert(self, origin: Any, text: str) -> None:
                messages.append(f"alert: {text}")

        self.requests = requests
        self.messages = messages
        # Without a reference to it there is no event loop.
        self._app = QApplication(sys.argv[:1])
        profile = QWebEngineProfile(self._app)
        self._interceptor = Requests(profile)
        profile.setUrlRequestInterceptor(self._interceptor)
        self._page = Page(profile, self._app)
        self._page.settings().setAttribute(QWebEngineSettings.WebAttribute.ShowScrollBars, False)
        self._view = QWebEngineView()
        self._view.setPage(self._page)

    def look(self, path: Path, width: int, picture: Path) -> dict[str, Any]:
        """Load a page at a width, save a picture, and return the measurements of `LOOK`."""
        from PySide6.QtCore import Qt, QUrl

        self._view.resize(width, _HEIGHT)
        self._view.show()

        def load(done: Callable[..., None]) -> None:
            self._page.loadFinished.connect(done, Qt.ConnectionType.SingleShotConnection)
            self._page.load(QUrl.fromLocalFile(str(path)))

        if not wait(load):
            raise OSError(f"{path} did not load")
        answer = wait(lambda done: self._page.runJavaScript(LOOK, 0, done))
        if not answer:
            raise OSError(f"{path} could not be measured: {self.messages}")
        looks: dict[str, Any] = json.loads(answer)
        self._view.resize(width, min(looks["height"], _PICTURE_HEIGHT_MAX))
        if not self._grab().save(str(picture)):
            raise OSError(f"cannot write {picture}")
        return looks

    def _grab(self) -> Any:
        """Return a picture of the window once two successive pictures are equal.

        No signal says that painting is done.
        """
        from PySide6.QtCore import QTimer

        grabbed = self._view.grab().toImage()
        for _ in range(_TIMEOUT_MS // _STILL_MS):
            wait(lambda done: QTimer.singleShot(_STILL_MS, done))
            before, grabbed = grabbed, self._view.grab().toImage()
            if before == grabbed:
                break
        return grabbed

    def print_pdf(self, target: Path) -> Any:
        """Print the page that is loaded into a PDF file; return whether it worked."""
        from PySide6.QtCore import Qt

        def start(done: Callable[..., None]) -> None:
            self._page.pdfPrintingFinished.connect(done, Qt.ConnectionType.SingleShotConnection)
            self._page.printToPdf(str(target))

        return wait(start)


def main(scheme: str, folder: Path, pages: list[Path]) -> None:
    """Look at every page in both widths, print it, and write the findings to standard output."""
    browser = Browser()
    seen: dict[str, Any] = {}
    for path in pages:
        browser.requests.clear()
        browser.messages.clear()
        looks = {
            width: browser.look(path, width, folder / f"{path.stem}-{width}-{scheme}.png")
            for width in WIDTHS
        }
        seen[path.stem] = {
            "looks": looks,
            "printed": browser.print_pdf(folder / f"{path.stem}-{scheme}.pdf"),
            "requests": sorted(set(browser.requests)),
            "messages": list(browser.messages),
        }
    sys.stdout.write(json.dumps(seen))
    sys.stdout.flush()
    # Exit without shutting the engine down: it reports errors while it does.
    os._exit(0)


if __name__ == "__main__":
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = (
        f"{_FLAGS} --blink-settings=preferredColorScheme={SCHEMES[sys.argv[1]]}"
    )
    try:
        import PySide6.QtWebEngineWidgets  # noqa: F401
    except ImportError as error:
        sys.stderr.write(f"QtWebEngine cannot be started: {error}\n")
        sys.exit(CANNOT_START)
    main(sys.argv[1], Path(sys.argv[2]), [Path(each) for each in sys.argv[3:]])
