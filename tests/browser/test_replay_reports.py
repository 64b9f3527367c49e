"""Reports of replays in a real browser."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

import tokentape as tt
from benchmarks.chromium import Chromium, Scheme
from tests.browser.measurements import LOOK
from tests.replay.made_reports import HOSTILE, bare, hostile, huge, not_numbers, of_verdict, report
from tokentape.replay.reports.html import html_report
from tokentape.replay.results.verdict import Verdict

pytestmark = pytest.mark.slow

SCHEMES = get_args(Scheme)
WIDTHS = (360, 1280)
_PICTURE_HEIGHT_MAX = 3_000

# WCAG AA for text of any size.
CONTRAST_MIN = 4.5
MADE = {
    "tampered": [report()],
    "verdicts": [of_verdict(verdict) for verdict in Verdict],
    "hostile": [hostile(text) for text in HOSTILE.values()],
    "huge": [huge(20, 5_000, divergences=1_000)],
    "not-numbers": [not_numbers()],
    "bare": [bare()],
    "none": [],
}
# The number of turns and the badges of each page.
ROWS = {
    "tampered": (4, ["✕ diverged"]),
    "verdicts": (
        12,
        ["= exact", "✓ verified", "≈ near tie", "~ drifted", "✕ diverged", "≠ incomparable"],
    ),
    "hostile": (4 * len(HOSTILE), ["✕ diverged"] * len(HOSTILE)),
    "huge": (20, ["~ drifted"]),
    "not-numbers": (1, ["✕ diverged"]),
    "bare": (0, ["✕ diverged"]),
    "none": (0, []),
    "real": (8, ["✓ verified", "≠ incomparable"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def seen(
    chromium: Chromium,
    folder: Path,
    make_lm: Callable[..., tt.LoadedModel],
    record: Callable[..., tt.Recording],
) -> dict[str, dict[str, Any]]:
    """Return the measurements of every page, by color scheme."""
    lm = make_lm("llama")
    with tt.open_store("sqlite://") as store:
        recording = record(lm, store)
        real = [tt.verify(recording, lm), tt.verify(recording, make_lm("llama", seed=5))]
    pages = []
    for name, reports in (MADE | {"real": real}).items():
        pages.append(folder / f"{name}.html")
        pages[-1].write_text(html_report(reports), encoding="utf-8")
    return {
        scheme: {page.stem: _looked_at(chromium, page, scheme, folder) for page in pages}
        for scheme in SCHEMES
    }


def _looked_at(chromium: Chromium, path: Path, scheme: Scheme, folder: Path) -> dict[str, Any]:
    """Measure a page at each width, take a picture of it, and print it."""
    looks = {}
    with chromium.open_page(scheme=scheme) as opened:
        for width in WIDTHS:
            opened.page.set_viewport_size({"width": width, "height": 900})
            looks[str(width)] = look = json.loads(opened.open(path).evaluate(LOOK))
            height = min(look["height"], _PICTURE_HEIGHT_MAX)
            opened.page.set_viewport_size({"width": width, "height": height})
            opened.page.screenshot(path=folder / f"{path.stem}-{width}-{scheme}.png")
        opened.print_pdf(folder / f"{path.stem}-{scheme}.pdf")
        return {
            "looks": looks,
            "requests": sorted(set(opened.requests)),
            "messages": opened.messages,
        }


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=ROWS)
def page(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_page_runs_nothing_and_asks_for_nothing(
    page: str, scheme: str, seen: dict[str, Any], folder: Path
) -> None:
    found = seen[scheme][page]

    assert found["messages"] == []
    assert found["requests"] == [(folder / f"{page}.html").as_uri()]
    assert {look["scripts"] for look in found["looks"].values()} == {0}


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_fits_and_can_be_read(
    page: str, scheme: str, width: int, seen: dict[str, Any], folder: Path
) -> None:
    look = seen[scheme][page]["looks"][str(width)]
    rows, badges = ROWS[page]

    # The content security policy allows the page's own style.
    assert look["styled"]
    assert look["viewport"] == width
    assert look["width"] <= width
    assert look["beyond"] == []
    assert look["rows"] == rows
    assert look["badges"] == badges
    assert look["least"]["contrast"] >= CONTRAST_MIN, look["least"]
    assert all(chart["width"] > 100 and chart["height"] > 15 for chart in look["charts"])
    assert all(chart["drawn"] and chart["name"] for chart in look["charts"])
    assert (folder / f"{page}-{width}-{scheme}.png").stat().st_size > 5_000


def test_light_is_light_and_dark_is_dark(page: str, seen: dict[str, Any]) -> None:
    grounds = {name: seen[name][page]["looks"]["1280"]["background"] for name in SCHEMES}
    parts = {name: sum(map(int, ground[4:-1].split(","))) for name, ground in grounds.items()}

    assert parts["light"] > 3 * 240
    assert parts["dark"] < 3 * 40


def test_what_is_tampered_with_is_what_a_reader_sees(seen: dict[str, Any]) -> None:
    look = seen["light"]["tampered"]["looks"]["360"]

    assert look["title"] == "verify of probe: diverged"
    assert look["marked"] == [" matrices"]
    assert len(look["charts"]) == 6
    for part in ("First divergence", "turn 2, token 5", "removed by top_p", "5.43 logits"):
        assert part in look["text"]


def test_hostile_text_is_seen_as_text(seen: dict[str, Any]) -> None:
    look = seen["light"]["hostile"]["looks"]["1280"]

    assert "<script>alert(1)</script>" in look["text"]
    assert "</style><style>*{display:none}</style>" in look["text"]
    assert "{{ 7 * 7 }}" in look["text"]
    assert len(look["marked"]) == len(HOSTILE)


@pytest.mark.usefixtures("seen")
def test_a_page_can_be_printed(page: str, folder: Path) -> None:
    for scheme in SCHEMES:
        assert (folder / f"{page}-{scheme}.pdf").read_bytes().startswith(b"%PDF")
