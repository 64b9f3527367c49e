"""Looks at pages with QtWebEngine, which is Chromium, and prints what it saw as JSON.

A program of its own: the engine wants its flags, its threads and its event loop for itself. Run as
`python browser.py light|dark FOLDER PAGE…`; pictures and prints go into the folder. Exits with 77
and a line on standard error where the engine cannot be started.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CANNOT_START = 77
WIDTHS = (360, 1280)
# What the engine calls them.
SCHEMES = {"dark": 0, "light": 1}
_HEIGHT = 900
_PICTURE_HEIGHT_MAX = 3_000
_STILL_MS = 300
_TIMEOUT_MS = 60_000

# There is no screen, and as root no sandbox; nothing but our own pages is opened.
_FLAGS = "--no-sandbox --disable-gpu --disable-background-networking"

# What a reader would see, measured: sizes, overflow, and the least contrast of any text.
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


def main(scheme: str, folder: Path, pages: list[Path]) -> None:
    """Look at every page in both widths, print it, and write what was seen to standard output."""
    from PySide6.QtCore import QEventLoop, Qt, QTimer, QUrl
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
        def javaScriptConsoleMessage(self, level: Any, text: str, line: int, source: str) -> None:
            messages.append(f"{text} ({source}:{line})")

        def javaScriptAlert(self, origin: Any, text: str) -> None:
            messages.append(f"alert: {text}")

    def wait(start: Callable[[Callable[..., None]], object]) -> Any:
        """What the callback is called with."""
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

    once = Qt.ConnectionType.SingleShotConnection
    # Lives as long as the program: without it there is no event loop.
    app = QApplication(sys.argv[:1])
    profile = QWebEngineProfile(app)
    interceptor = Requests(profile)
    profile.setUrlRequestInterceptor(interceptor)
    page = Page(profile, app)
    page.settings().setAttribute(QWebEngineSettings.WebAttribute.ShowScrollBars, False)
    view = QWebEngineView()
    view.setPage(page)
    seen: dict[str, Any] = {}
    for path in pages:
        requests.clear()
        messages.clear()
        looks = {}
        for width in WIDTHS:
            view.resize(width, _HEIGHT)
            view.show()
            url = QUrl.fromLocalFile(str(path))
            if not wait(
                lambda done, url=url: (page.loadFinished.connect(done, once), page.load(url))
            ):
                raise OSError(f"{path} did not load")
            answer = wait(lambda done: page.runJavaScript(LOOK, 0, done))
            if not answer:
                raise OSError(f"{path} could not be looked at: {messages}")
            looks[width] = json.loads(answer)
            view.resize(width, min(looks[width]["height"], _PICTURE_HEIGHT_MAX))
            # Painting is said by no signal: a picture is done that stays as it is.
            grabbed = view.grab().toImage()
            for _ in range(_TIMEOUT_MS // _STILL_MS):
                wait(lambda done: QTimer.singleShot(_STILL_MS, done))
                before, grabbed = grabbed, view.grab().toImage()
                if before == grabbed:
                    break
            picture = folder / f"{path.stem}-{width}-{scheme}.png"
            if not grabbed.save(str(picture)):
                raise OSError(f"cannot write {picture}")
        printed = str(folder / f"{path.stem}-{scheme}.pdf")
        seen[path.stem] = {
            "looks": looks,
            "printed": wait(
                lambda done, printed=printed: (
                    page.pdfPrintingFinished.connect(done, once),
                    page.printToPdf(printed),
                )
            ),
            "requests": sorted(set(requests)),
            "messages": list(messages),
        }
    sys.stdout.write(json.dumps(seen))
    sys.stdout.flush()
    # Taking the engine down is not what is looked at, and it complains of its own order.
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
