"""The HTML page is self-contained and complete, and escapes texts of the model."""

import base64
import hashlib
import math
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokentape as tt
from tests.replay.made_reports import (
    HOSTILE,
    bare,
    hostile,
    huge,
    not_numbers,
    of_verdict,
    report,
)
from tokentape.replay.reports.charts import draw, scale_of, thin
from tokentape.replay.reports.html import html_report
from tokentape.replay.results.report import Report
from tokentape.replay.results.verdict import Verdict
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]

VOID = {"meta", "br", "path"}
MADE: dict[str, list[Report]] = {
    "one": [report()],
    "none": [],
    "bare": [bare()],
    "not numbers": [not_numbers()],
    "every verdict": [of_verdict(verdict) for verdict in Verdict],
    "huge": [huge(5, 2_000, divergences=2_000)],
} | {name: [hostile(text)] for name, text in HOSTILE.items()}


class Page(HTMLParser):
    """Collects the content of a page, and checks that its tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        assert tag == "path"
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def classes(self) -> list[str]:
        return [name for _, each in self.tags for name in (each.get("class") or "").split()]


def style_of(text: str) -> str:
    (style,) = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    return str(style)


@pytest.mark.parametrize("made", MADE)
def test_a_page_is_well_formed_and_loads_nothing(made: str) -> None:
    text = html_report(MADE[made])
    page = Page(text)

    assert text.startswith("<!doctype html>\n<html lang=")
    assert text == html_report(MADE[made])
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "main", "section", "footer"),
        *("h1", "h2", "h3", "p", "a", "div", "span", "strong", "mark", "code", "pre", "br"),
        *("ol", "ul", "li", "dl", "dt", "dd", "figure", "figcaption"),
        *("table", "caption", "thead", "tbody", "tr", "th", "td", "svg", "desc", "path"),
    }
    for _, attributes in page.tags:
        assert {"src", "style", "srcset", "xlink:href", "data"}.isdisjoint(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    style = style_of(text)
    assert not re.search(r"url\(|@import|@font-face|expression", style)
    (policy,) = [
        each["content"] or ""
        for each in page.of("meta")
        if each.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.split("; ")[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]


@pytest.mark.parametrize("made", MADE)
def test_what_a_picture_shows_is_also_said(made: str) -> None:
    page = Page(html_report(MADE[made]))
    names = [each["id"] for _, each in page.tags if each.get("id")]
    anchors = [(each["href"] or "").removeprefix("#") for each in page.of("a")]

    assert len(set(names)) == len(names)
    assert set(anchors) <= set(names)
    for each in page.of("svg"):
        assert each["role"] == "img"
        assert set((each["aria-labelledby"] or "").split()) <= set(names)


def test_a_page_says_everything() -> None:
    text = html_report([report()])
    page = Page(text)
    said = "".join(page.text)
    for part in (
        "verify of probe: diverged",
        "The model did not produce token 5 of turn 2",
        "turn 2: the ids of the reply do not decode to its text",
        "Turn 2, token 5, position 1415: another token is picked.",
        "5.43 logits (eps 0.001)",
        "differs by 0.0003 nats (floor 0.0001)",
        "removed by top_p",
        "21.4413",
        "tokentape verify 01a20797-1cda-77cb-a4ac-61b65d8031e8 --turn 2",
        "the sampler would have filtered the recorded token",
        "get_weight_statistics",
        "ignored",
        "model.layers.3.mlp.up_proj.weight and 2 more tensors",
        "float32-2026-11, for float32",
        "1 seen, 0.0013 predicted",
    ):
        assert part in said, part
    assert page.classes().count("turn") == 4
    # One chart for each turn, one of margins if there are any, one of the first divergence.
    assert len(page.of("svg")) == 4 + 1 + 1
    assert re.search(r"The layer has<mark> matrices</mark> of the largest size", text)


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_its_badge(verdict: Verdict) -> None:
    page = Page(html_report([of_verdict(verdict)]))

    assert {"badge", verdict} <= set(page.classes())
    assert verdict.replace("_", " ") in "".join(page.text)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_text_of_a_model_stays_text(text: str) -> None:
    written = html_report([hostile(text)])
    plain, page = Page(html_report([hostile("x" * len(text))])), Page(written)
    structure = [tag for tag, _ in page.tags if tag != "span"]

    written.encode()
    # An emoji may have joiners.
    assert written.replace("\n", "").replace("👩\u200d", "").isprintable()
    if text:
        assert structure == [tag for tag, _ in plain.tags if tag != "span"]
    if text.isprintable() and 0 < len(text) < 100 and "\ufe0f" not in text:
        assert "".join(page.text).count(text) >= 10 or "\\u" in "".join(page.text)


def test_several_reports_have_a_table_of_contents() -> None:
    made = [of_verdict(verdict) for verdict in Verdict]
    page = Page(html_report(made))

    assert "3 of 6 replays pass" in page.text
    assert [each["href"] for each in page.of("a")] == [f"#r{index}" for index in range(1, 7)]
    assert "No recording was replayed." in "".join(Page(html_report([])).text)


@pytest.mark.parametrize(
    ("turns", "tokens", "divergences", "bytes_max"),
    [(1, 100_000, 0, 60_000), (20, 5_000, 20_000, 1_500_000), (5_000, 20, 5_000, 3_000_000)],
)
def test_a_hundred_thousand_tokens_make_no_large_page(
    turns: int, tokens: int, divergences: int, bytes_max: int
) -> None:
    text = html_report([huge(turns, tokens, divergences)])
    said = "".join(Page(text).text)

    assert len(text.encode()) < bytes_max
    assert ("Long turns are thinned" in said) == (tokens > 240)
    assert ("more turns are not shown" in said) == (turns > 1_000)
    assert ("19,499 more are not shown" in said) == (divergences == 20_000)
    # The one token above the noise is visible among any number of others.
    assert 'class="above"' in text
    assert "1 above the floor of 0.0001" in said


@given(
    st.lists(st.one_of(st.none(), st.floats(0.0, 1.0)), max_size=200),
    st.integers(1, 50),
)
def test_thinning_keeps_the_largest_and_the_missing(
    values: list[float | None], strokes: int
) -> None:
    thinned = thin(values, strokes)
    numbers = [each for each in values if each is not None]

    assert len(thinned) == min(len(values), strokes)
    assert (None in thinned) == (None in values)
    if len(numbers) == len(values) and numbers:
        assert max(each for each in thinned if each is not None) == max(numbers)
    if len(values) <= strokes:
        assert thinned == values


def test_a_chart_tells_noise_from_what_is_above_it() -> None:
    values = [0.0, 1e-300, 1e-5, 1e-4, 1.1e-4, math.inf, math.nan, None]
    numbers = [each for each in values if each is not None]
    chart = draw(
        values,
        scale_of(numbers, 1e-4),
        [(4, False), (4, True), (7, True)],
        size=(80, 40),
        strokes_max=8,
        title="",
        description="",
    )
    drawn = {name: getattr(chart, name).count("M") for name in ("within", "above", "missing")}

    assert drawn == {"within": 3, "above": 2, "missing": 2}
    assert (chart.diverged.count("M"), chart.near_ties.count("M")) == (1, 1)
    assert chart.threshold_y is not None
    heights = [float(y) for y in re.findall(r"M\S+ (\S+)V", chart.within + chart.above)]
    assert heights == sorted(heights, reverse=True)
    assert heights[2] == chart.threshold_y


def test_real_replays_are_shown(
    lm: tt.LoadedModel,
    make_lm: Callable[..., tt.LoadedModel],
    store: DatabaseStore,
    record: Callable[..., tt.Recording],
) -> None:
    recording = record(lm, store)
    found = [tt.verify(recording, lm), tt.verify(recording, make_lm("llama", seed=5))]
    page = Page(html_report(found))

    assert page.classes().count("turn") == 8
    assert page.classes().count("text") == 1
    assert "1 of 2 replays pass" in page.text


@pytest.fixture(scope="module")
def database(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_folder: Path,
    record: Callable[..., tt.Recording],
) -> Path:
    path = tmp_path_factory.mktemp("store") / "runs.db"
    with tt.open_store(path) as store:
        record(tt.load_model(tiny_folder), store, tokens=4)
    return path


def left_behind(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".writing")]


@pytest.mark.parametrize("command", ["verify", "regenerate"])
def test_reports_are_written_beside_what_is_printed(
    command: str, database: Path, tmp_path: Path, cli: Cli
) -> None:
    plain = cli(command, "--store", str(database))
    page, cases = tmp_path / "new" / "folder" / "report.html", tmp_path / "report.xml"
    cases.write_text("<?xml version='1.0'?><testsuites/>")
    arguments = ("--store", str(database), "--html", str(page), "--junit", str(cases))
    code, out, err = cli(command, *arguments)

    assert (code, err) == (plain[0], "")
    timed = re.compile(r"\d+\.\d s")
    assert timed.sub("", out) == timed.sub("", plain[1])
    assert Page(page.read_text()).classes().count("turn") == 4
    assert len(list(ElementTree.parse(cases).iter("testcase"))) == 5
    assert left_behind(tmp_path) == []
    assert page.stat().st_mode & 0o044 == database.stat().st_mode & 0o044


def test_a_forgery_is_in_every_report(
    database: Path, tmp_path: Path, forged: Callable[[Path, str], Path], cli: Cli
) -> None:
    page, cases = tmp_path / "report.html", tmp_path / "report.xml"
    copy = str(forged(database, "seed"))
    code, _, _ = cli("verify", "--store", copy, "--html", str(page), "--junit", str(cases))

    assert code == 1
    assert "diverged" in Page(page.read_text()).classes()
    # The turn, and the broken seal, which concerns the whole recording.
    failures = [each.text or "" for each in ElementTree.parse(cases).iter("failure")]
    assert len(failures) == 2
    assert any("repeat: tokentape verify" in each for each in failures)
    assert any("does not match its seal" in each for each in failures)


@pytest.mark.parametrize(
    ("option", "name", "complaint"),
    [
        ("--html", "folder", "it is not a file"),
        ("--junit", "file/report.xml", "cannot write"),
        ("--html", "x" * 300, "File name too long"),
        ("--html", "loop", "cannot write"),
        ("--html", "runs.db", "is there already, and is no such report"),
        ("--junit", "file", "is there already, and is no such report"),
    ],
)
def test_a_file_that_cannot_be_written_is_said_before_the_model_is_loaded(
    option: str, name: str, complaint: str, database: Path, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("something")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = database.read_bytes()
    path = database if name == "runs.db" else tmp_path / name
    arguments = ("--store", str(database), option, str(path))
    code, out, err = cli("verify", *arguments, "--model", str(tmp_path / "no model"))

    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1
    assert database.read_bytes() == before
    assert left_behind(tmp_path) == []


def test_one_file_cannot_be_both_reports(database: Path, tmp_path: Path, cli: Cli) -> None:
    path = str(tmp_path / "report")
    (tmp_path / "link").symlink_to(path)
    arguments = ("--html", path, "--junit", str(tmp_path / "link"))
    code, _, err = cli("verify", "--store", str(database), *arguments)

    assert code == 2
    assert "cannot be both reports" in err
    assert left_behind(tmp_path) == []


def test_a_replay_that_fails_leaves_nothing_behind(
    database: Path, tmp_path: Path, cli: Cli
) -> None:
    page = tmp_path / "report.html"
    page.write_text("<!doctype html>\nof yesterday")
    arguments = ("--store", str(database), "--html", str(page))

    assert cli("verify", *arguments, "--model", str(tmp_path / "no model"))[0] == 2
    assert cli("verify", *arguments, "--turn", "9")[0] == 5
    assert page.read_text() == "<!doctype html>\nof yesterday"
    assert left_behind(tmp_path) == []


def test_a_link_is_written_through(database: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "latest.html").symlink_to("report.html")
    cli("verify", "--store", str(database), "--html", str(tmp_path / "latest.html"))

    assert (tmp_path / "latest.html").is_symlink()
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_half_a_character_can_be_printed_as_json(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    from tokentape.output import print_json

    print_json({"name": "\udcff ü"})

    assert capsys.readouterr().out == '{\n  "name": "\\udcff ü"\n}\n'
