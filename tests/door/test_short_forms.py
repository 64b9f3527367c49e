"""Objects print as one short line, and as a small table in a notebook, with their texts escaped."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from tests.hostile import hostile
from tokentape.recorder.short_forms import html_table, short_repr
from tokentape.store import DatabaseStore

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">&amp;\x1b[2J\u202e\nline \'"'
ALLOWED = {"div", "strong", "table", "thead", "tbody", "tr", "th", "td"}


class Tags(HTMLParser):
    """Collects the tags, the attributes and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check_short(value: Any, *, table: bool = True) -> str:
    """Check the short forms of a value; return the text of its table."""
    line = repr(value)
    assert len(line) <= 250
    assert line.isprintable()
    if not table:
        return line
    page = Tags()
    page.feed(value._repr_html_())
    page.close()
    assert not page.open
    assert page.seen <= ALLOWED
    assert page.attributes <= {"style"}
    assert all(each.isprintable() for each in page.text)
    assert "color" not in value._repr_html_()
    return page.text


@pytest.fixture(scope="module")
def shown(make_lm: Callable[..., tt.LoadedModel]) -> dict[str, Any]:
    """Return one object of each class, of a run with hostile texts."""
    tiny = make_lm("llama")
    lm = tt.LoadedModel(tiny.model, tiny.tokenizer, HOSTILE)
    store = tt.open_store("sqlite://")

    def look() -> str:
        """Look."""
        return HOSTILE

    tools = tt.ToolInterface([look])
    run = tt.Investigation(lm, store=store, name=HOSTILE, system_prompt=HOSTILE, tools=tools)
    before = repr(run)
    calls = [tt.ToolCall(name="look", arguments={})]
    reply = run.chat(HOSTILE, tool_calls=calls, max_new_tokens=3)
    other = tt.Investigation(lm, store=store, name="other", system_prompt="Hi.")
    with other:
        other.chat("Hello", max_new_tokens=3)
    recording = store.recording(run.run_id)
    return {
        "before": before,
        "reply": reply,
        "run": run,
        "lm": lm,
        "store": store,
        "recording": recording,
        "rebuilt": tt.rebuild(recording),
        "report": tt.verify(recording, lm),
        "diff": tt.diff(recording, store.recording(other.run_id)),
    }


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("reply", ["turn 1", "3 tokens", "tool result"]),
        ("run", ["active", "1 turn,"]),
        ("lm", ["LlamaForCausalLM", "parameters", "float32", "cpu"]),
        ("store", ["sqlite://"]),
        ("recording", ["sqlite://"]),
        ("rebuilt", ["1 turn,", "3 tokens", "running"]),
        ("report", ["verify", "verified", "1 turn,", "0 divergences"]),
        ("diff", ["turn 1 differs first (prompt"]),
    ],
)
def test_each_object_prints_its_facts_and_no_markup(
    name: str, facts: list[str], shown: dict[str, Any]
) -> None:
    text = check_short(shown[name])

    for each in facts:
        assert each in repr(shown[name])
    if name in ("reply", "run", "lm", "store", "recording", "rebuilt", "diff"):
        assert "<script>" in text  # as text: the page has no such tag


def test_the_state_of_a_run_is_in_its_line(shown: dict[str, Any], store: DatabaseStore) -> None:
    assert "not started" in shown["before"]
    run = tt.Investigation(shown["lm"], store=store, name="t", system_prompt="")
    run.start().finish()
    assert "ended" in repr(run)


def test_neighbours_print_one_line(shown: dict[str, Any], tmp_path: Path) -> None:
    lm = shown["lm"]
    generator = shown["run"].generator
    cached = generator.generate("x", max_new_tokens=1, return_cache=True)["past_key_values"]
    vector = torch.zeros(lm.model.config.hidden_size)
    log = tt.SealingLog(shown["store"], tmp_path)
    states: list[tt.GenerationState] = []
    generator.generate("x", max_new_tokens=1, observer=states.append)
    reply, rebuilt = shown["reply"], shown["rebuilt"]
    for each in (
        generator,
        cached,
        log,
        states[0],
        reply.rounds[0],
        reply.rounds[0].prompt,
        reply.tool_results[0],
        rebuilt.turns[0],
        *shown["recording"].events(),
        *shown["report"].turns,
        tt.default_tools(lm),
        tt.Recorder(shown["store"]),
        tt.Intervention.steer(HOSTILE, 1, vector),
    ):
        assert "tensor(" not in check_short(each, table=False)


def test_a_failed_run_says_so_in_its_report_and_its_recording(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with (
        pytest.raises(ValueError, match="mine"),
        tt.Investigation(lm, store=store, name="t", system_prompt="Hi.") as run,
    ):
        run.chat("Hi", max_new_tokens=2)
        raise ValueError("mine")
    recording = store.recording(run.run_id)
    report = tt.verify(recording, lm)

    assert "failed: ValueError: mine" in repr(report)
    assert "failed: ValueError: mine" in check_short(report)
    assert "failed: ValueError: mine" in check_short(recording)


def test_a_sealed_store_shows_its_runs(shown: dict[str, Any], tmp_path: Path) -> None:
    tape = tt.pack([shown["recording"]], shown["store"], tmp_path / "a.tape")
    with tt.open_store(tape) as sealed:
        assert shown["run"].run_id in check_short(sealed)


def test_a_recording_that_cannot_be_read_says_so() -> None:
    def read() -> Any:
        raise tt.RecordingError(HOSTILE)

    text = check_short(tt.Recording("run", read))
    assert "cannot be read" in text
    assert "<script>" in text


def test_a_report_gives_its_text_and_its_page(shown: dict[str, Any]) -> None:
    report = shown["report"]
    assert "VERIFIED" in report.text()
    assert report.html().startswith("<!doctype html>")
    assert "<script" not in report.html()
    assert "turn 1" in shown["diff"].text()


@pytest.mark.parametrize("text", [HOSTILE, hostile("mark")])
def test_every_cell_and_line_is_escaped(text: str) -> None:
    page = Tags()
    page.feed(html_table(text, [text], [[text]] * 30, end=text))
    assert page.seen <= ALLOWED
    assert "… 10" in page.text
    assert page.text.isprintable()
    assert short_repr(page, text).isprintable()
