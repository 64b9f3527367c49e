"""How fast the page of a run opens and scrolls in a browser."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.chromium import Chromium, OpenedPage

OPENED_S_MAX = 3.0
FRAMES_PER_S_MIN = 50.0

# Resolves when the first token is on the screen and the thread of the page is free after a frame.
_WATCH_OPENING = """
window.opened = new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error("no token was shown in a minute")), 60_000);
  const look = () => {
    const token = document.querySelector("[data-token]");
    const box = token && token.getBoundingClientRect();
    if (!box || !box.width || box.top >= innerHeight) requestAnimationFrame(look);
    else requestAnimationFrame(() => setTimeout(() => resolve(performance.now())));
  };
  requestAnimationFrame(look);
});
"""

# Scrolls from the top to the end in `frames` equal steps; returns the times between frames in ms.
# A page that grows while it is scrolled is scrolled further.
_SCROLL = """
(frames) => new Promise((resolve) => {
  const scroller = document.scrollingElement;
  scroller.scrollTo(0, 0);
  const times = [];
  let last = null;
  let frame = 0;
  const step = (now) => {
    if (last !== null) times.push(now - last);
    last = now;
    const end = scroller.scrollHeight - innerHeight;
    if (frame === frames) {
      resolve({ times, height: scroller.scrollHeight, at: scroller.scrollTop / end });
      return;
    }
    frame += 1;
    scroller.scrollTo({ top: end * frame / frames, behavior: "instant" });
    requestAnimationFrame(step);
  };
  requestAnimationFrame(() => requestAnimationFrame(step));
})
"""

# Presses a key and waits for the frame that shows what came of it.
_SELECT = """
() => new Promise((resolve) => {
  const token = document.querySelector("[data-token]");
  const began = performance.now();
  token.click();
  requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
})
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrolled:
    """The frames of a scroll through the whole page."""

    height_px: float
    frames: int
    seconds: float
    worst_ms: float
    late: int
    """Frames that took more than 1/50 s."""

    @property
    def frames_per_s(self) -> float:
        """Return the mean number of frames a second."""
        return self.frames / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """How a page opens, in milliseconds since the start of the navigation."""

    tokens_ms: float
    """Until the first token is on the screen and the page answers."""
    select_ms: float
    """From a click on a token to the frame that shows it."""
    heap_bytes: int | None
    """Of JavaScript, where the browser tells."""


def measure_opening(chromium: Chromium, path: Path, *, rounds: int) -> Opened:
    """Open the page several times, each time as a new page, and return the medians."""
    found = [_open_once(chromium, path) for _ in range(rounds)]
    return Opened(
        tokens_ms=median(each.tokens_ms for each in found),
        select_ms=median(each.select_ms for each in found),
        heap_bytes=found[-1].heap_bytes,
    )


def _open_once(chromium: Chromium, path: Path) -> Opened:
    with chromium.open_page() as opened:
        page = opened.page
        page.add_init_script(_WATCH_OPENING)
        opened.open(path)
        tokens_ms = float(page.evaluate("window.opened"))
        select_ms = float(page.evaluate(_SELECT))
        heap = page.evaluate("performance.memory?.usedJSHeapSize ?? null")
        _check_quiet(opened)
        return Opened(tokens_ms=tokens_ms, select_ms=select_ms, heap_bytes=heap)


def measure_scroll(chromium: Chromium, path: Path, *, frames: Sequence[int]) -> list[Scrolled]:
    """Scroll through the page in each of these numbers of frames, once it is complete."""
    with chromium.open_page() as opened:
        page = opened.page
        page.add_init_script(_WATCH_OPENING)
        opened.open(path)
        page.evaluate("window.opened")
        page.locator("[aria-busy=true]").wait_for(state="detached")
        scrolls = [_scrolled(page.evaluate(_SCROLL, count)) for count in frames]
        _check_quiet(opened)
        return scrolls


def _scrolled(found: dict[str, Any]) -> Scrolled:
    times = found["times"]
    if found["at"] < 0.99:
        raise RuntimeError(f"the scroll ended at {found['at']:.0%} of the page")
    return Scrolled(
        height_px=found["height"],
        frames=len(times),
        seconds=sum(times) / 1000,
        worst_ms=max(times),
        late=sum(1 for each in times if each > 1000 / FRAMES_PER_S_MIN + 1),
    )


def _check_quiet(opened: OpenedPage) -> None:
    if opened.messages:
        raise RuntimeError(f"the page is at fault: {opened.messages[0]}")
