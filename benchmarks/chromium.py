"""A Chromium without a screen, driven by playwright: for tests, figures and pictures of pages.

It is the browser that `TOKENTAPE_BROWSER` names, else one on the PATH, else the QtWebEngine of the
extra `browser`, which pip installs.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserType, ConsoleMessage, Page, Request

Scheme = Literal["light", "dark"]

VARIABLE = "TOKENTAPE_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ENGINE = Path(__file__).with_name("web_engine.py")
_LISTENING = re.compile(r"DevTools listening on (ws://\S+)")

_TIMEOUT_MS = 15_000
# QtWebEngine does not tell a debugger of dialogs.
_DIALOGS = """
for (const name of ["alert", "confirm", "prompt", "print"]) {
  window[name] = (text) => console.error(`dialog: ${name} ${text}`);
}
"""

# There is no sandbox for root; only pages made by this project are opened.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class NoBrowserError(Exception):
    """There is no Chromium here, or nothing to drive it with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedPage:
    """A page, with its requests and its messages since it was opened."""

    page: "Page"
    print_pdf: Callable[[Path], None]
    """Prints the page into a file."""
    requests: list[str] = field(default_factory=list)
    """The addresses that it requested, except `data:` and `blob:`."""
    messages: list[str] = field(default_factory=list)
    """Warnings and errors of the console, uncaught errors, and dialogs."""

    def open(self, path: Path, fragment: str = "") -> "Page":
        """Load a file, at a fragment such as `#t7.s31`; return the page."""
        return self.visit(path.resolve().as_uri() + fragment)

    def visit(self, address: str) -> "Page":
        """Load an address, and wait until a page of tokentape shows its document."""
        self.page.goto(address)
        # After the page has loaded, its script unpacks or requests the document.
        self.page.locator("#app:empty").wait_for(state="detached")
        return self.page


class Chromium:
    """A running browser, in which one page is open at a time."""

    def __init__(self, browser: "Browser") -> None:
        self._browser = browser

    @property
    def version(self) -> str:
        """Return the number of the browser's version."""
        return self._browser.version

    @contextmanager
    def open_page(
        self, *, width: int = 1280, height: int = 900, scheme: Scheme = "light"
    ) -> Iterator[OpenedPage]:
        """Yield an empty page without routes, storage or listeners of an earlier page."""
        with self._browser.new_context() as context:
            page = context.new_page()

            def print_pdf(path: Path) -> None:
                page.pdf(path=path)

            with _watched(OpenedPage(page=page, print_pdf=print_pdf)) as opened:
                _prepare(page, width, height, scheme)
                yield opened


class WebEngine(Chromium):
    """QtWebEngine: a Chromium with a single page, which is emptied after each use."""

    def __init__(self, browser: "Browser", process: "subprocess.Popen[bytes]") -> None:
        super().__init__(browser)
        self._process = process

    @contextmanager
    def open_page(
        self, *, width: int = 1280, height: int = 900, scheme: Scheme = "light"
    ) -> Iterator[OpenedPage]:
        """Yield the page, without routes or listeners of its earlier use."""
        page = self._browser.contexts[0].pages[0]
        try:
            with _watched(OpenedPage(page=page, print_pdf=self._print_pdf)) as opened:
                _prepare(page, width, height, scheme)
                yield opened
        finally:
            page.unroute_all()
            if page.url != "about:blank":
                page.evaluate("localStorage.clear()")
                page.goto("about:blank")

    def _print_pdf(self, path: Path) -> None:
        """Have the window print: QtWebEngine does not for a debugger."""
        commands, answers = self._process.stdin, self._process.stdout
        assert commands is not None
        assert answers is not None
        commands.write(f"{path}\n".encode())
        commands.flush()
        if not answers.readline().startswith(b"printed"):
            raise OSError(f"cannot print {path}")


def _prepare(page: "Page", width: int, height: int, scheme: Scheme) -> None:
    page.add_init_script(_DIALOGS)
    page.set_default_timeout(_TIMEOUT_MS)
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")


@contextmanager
def _watched(opened: OpenedPage) -> Iterator[OpenedPage]:
    page = opened.page

    def on_request(request: "Request") -> None:
        if not request.url.startswith(("data:", "blob:")):
            opened.requests.append(request.url)

    def on_console(message: "ConsoleMessage") -> None:
        if message.type in ("warning", "error"):
            opened.messages.append(f"{message.type}: {message.text}")

    def on_error(error: Exception) -> None:
        opened.messages.append(f"uncaught: {error}")

    page.on("request", on_request)
    page.on("console", on_console)
    page.on("pageerror", on_error)
    try:
        yield opened
    finally:
        page.remove_listener("request", on_request)
        page.remove_listener("console", on_console)
        page.remove_listener("pageerror", on_error)


@contextmanager
def open_chromium() -> Iterator[Chromium]:
    """Start a browser, yield it, and end it.

    Raise NoBrowserError, which says what to install, if there is none.
    """
    if importlib.util.find_spec("playwright") is None:
        raise NoBrowserError("playwright is not installed: pip install 'tokentape[dev]'")
    from playwright.sync_api import sync_playwright

    path = _installed()
    with sync_playwright() as playwright:
        if path is None:
            with _web_engine(playwright.chromium) as engine:
                yield engine
            return
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield Chromium(browser)
        finally:
            browser.close()


def _installed() -> str | None:
    """Return the path of a Chromium, or None to use QtWebEngine."""
    named = os.environ.get(VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise NoBrowserError(f"{VARIABLE} names no program: {named}")
        return found
    for name in NAMES:
        if found := shutil.which(name):
            return found
    if importlib.util.find_spec("PySide6") is None:
        raise NoBrowserError(
            f"no browser: neither {VARIABLE} nor the PATH has a Chromium, and the extra `browser`, "
            "which brings one, is not installed"
        )
    return None


@contextmanager
def _web_engine(chromium: "BrowserType") -> Iterator[WebEngine]:
    """Start QtWebEngine in a process of its own, and connect to it."""
    with TemporaryDirectory(prefix="web-engine-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as written:
            process = subprocess.Popen(
                [sys.executable, str(_ENGINE), " ".join(FLAGS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
            )
        try:
            # Without `no_defaults` playwright uses contexts, which QtWebEngine does not have.
            browser = chromium.connect_over_cdp(_endpoint(process, log), no_defaults=True)
            yield WebEngine(browser, process)
        finally:
            process.kill()
            process.communicate()


def _endpoint(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Return the address at which the engine listens, once it has written it."""
    for _ in range(600):
        text = log.read_text(encoding="utf-8", errors="replace")
        if found := _LISTENING.search(text):
            return found.group(1)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise NoBrowserError(f"QtWebEngine did not start: {text[-500:]}")
