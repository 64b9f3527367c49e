"""Draw the pictures of the page of a run: `python -m docs.make_view_images [runs/demo.html]`.

The page is that of `tokentape demo`, which takes about three minutes; give the one that it wrote
last to be done in seconds. It needs a browser: see CONTRIBUTING.md.
"""

import hashlib
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Page

from benchmarks.chromium import Chromium, Scheme, open_chromium
from tokentape.replay.view.page import page_script, page_style

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
KEY = "tokentape page"
"""The text field of a picture that holds the sha256 of the page's script and style."""
BYTES_MAX = 150_000
_WIDTH, _HEIGHT = 1280, 860
_COLORS = 160


def _least_sure_token(page: Page) -> None:
    link = page.get_by_role("link", name=re.compile(r"^turn \d+, token \d+$")).first
    link.click()


def _tampered_copy(page: Page) -> None:
    page.get_by_role("tab", name="Replays").click()
    heading = page.get_by_role("heading", name=re.compile(r"^Turn \d+, token \d+:")).first
    heading.evaluate("(each) => scrollBy(0, each.getBoundingClientRect().top - 360)")


SHOWN: dict[str, tuple[Scheme, Callable[[Page], None]]] = {
    "view-light": ("light", _least_sure_token),
    "view-dark": ("dark", _least_sure_token),
    "view-replays": ("dark", _tampered_copy),
}
"""What each picture shows, by its name."""


def assets_sha256() -> str:
    """Return the sha256 of the script and the style of the page."""
    return hashlib.sha256(f"{page_script()}\0{page_style()}".encode()).hexdigest()


def pictures() -> Iterator[Path]:
    """Yield the paths of the pictures."""
    for name in SHOWN:
        yield IMAGES / f"{name}.png"


def drawn_of(path: Path) -> str:
    """Return the sha256 of the script and the style of the page that a picture shows."""
    with Image.open(path) as picture:
        return str(picture.info.get(KEY, ""))


def draw(chromium: Chromium, page_path: Path) -> None:
    """Write every picture of a page. Raise ValueError if the page is not of today's code."""
    text = page_path.read_text(encoding="utf-8")
    if page_script() not in text or page_style() not in text:
        raise ValueError(f"{page_path} was made by other code: write it again")
    for name, (scheme, show) in SHOWN.items():
        with chromium.open_page(width=_WIDTH, height=_HEIGHT, scheme=scheme) as opened:
            page = opened.open(page_path)
            show(page)
            # Not over a token, which would be shown in place of the selected one.
            page.mouse.move(0, 0)
            # Until what has come near the screen is drawn.
            page.wait_for_timeout(500)
            _write(page.screenshot(), IMAGES / f"{name}.png")


def _write(png: bytes, path: Path) -> None:
    """Write a picture with few colors, and the sha256 of the assets that it shows."""
    metadata = PngInfo()
    metadata.add_text(KEY, assets_sha256())
    with Image.open(io.BytesIO(png)) as picture:
        few = picture.convert("RGB").quantize(_COLORS, dither=Image.Dither.NONE)
        few.save(path, optimize=True, pnginfo=metadata)
    sys.stdout.write(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB\n")


def main(page: Path | None) -> None:
    """Draw a page that is given, or that of a new demo."""
    with tempfile.TemporaryDirectory() as folder:
        if page is None:
            page = Path(folder) / "runs" / "demo.html"
            subprocess.run([sys.executable, "-m", "tokentape", "demo"], cwd=folder, check=True)
        with open_chromium() as chromium:
            draw(chromium, page)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
