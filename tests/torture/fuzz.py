"""Readers of files and replies, given what no writer of tokentape wrote.

A law takes what Hypothesis draws. A reader returns a value or raises a TokentapeError, within
seconds, and what is read and written again is equal.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer
from tests.generation.call_formats import FORMATS, TOOLS
from tests.generation.call_templates import TEMPLATES, with_template
from tests.generation.test_call_completion import WRITTEN
from tests.store.crash import record_script
from tests.store.made_runs import floor_of, verdict_of
from tests.torture.mutations import VALUES, changed_value, damaged, damaged_text
from tests.torture.tally import Row, Torture
from tokentape.generation import CallReader
from tokentape.generation.plans import load_plan, shipped_plans
from tokentape.replay.checking.noise_floor import DEFAULT_FLOOR
from tokentape.store import DatabaseStore
from tokentape.store.signing.signers import Signers
from tokentape.store.signing.sshsig import SshSignature, parse_signature

SECONDS_MAX = 5.0


@dataclass(frozen=True)
class Examples:
    """Good files, and a folder to write damaged ones to."""

    folder: Path
    tape: bytes
    lines: bytes
    floor: bytes

    @classmethod
    def make(cls, folder: Path) -> "Examples":
        """Write a file of each format, and read it."""
        tt.write_floor(DEFAULT_FLOOR, folder / "floor.json")
        with tt.open_store("sqlite://") as store:
            assert isinstance(store, DatabaseStore)
            run_id = record_script(store, "a run", turns=2, seed=1)
            store.add_verdict(verdict_of(run_id))
            store.add_floor(floor_of(run_id))
            recording = store.recording(run_id)
            tape = tt.pack([recording], store, folder / "a.tape")
            lines = tt.export_jsonl([recording], store, folder / "a.jsonl")
        return cls(
            folder, tape.read_bytes(), lines.read_bytes(), (folder / "floor.json").read_bytes()
        )

    def write(self, name: str, content: bytes) -> Path:
        """Write a damaged file."""
        path = self.folder / name
        path.write_bytes(content)
        return path


Law = Callable[[st.DataObject, Examples], None]


def tapes(data: st.DataObject, examples: Examples) -> None:
    """A damaged tape is refused, or read as the sound one."""
    path = examples.write("damaged.tape", damaged(data, examples.tape))
    with suppress(tt.TokentapeError):
        _read_all(path)


def json_lines(data: st.DataObject, examples: Examples) -> None:
    """Damaged lines are refused; what is imported is exported as the lines that were read."""
    content = examples.lines
    if data.draw(st.booleans(), label="as JSON"):
        lines = content.splitlines()
        at = data.draw(st.integers(0, len(lines) - 1), label="line")
        lines[at] = json.dumps(changed_value(data, json.loads(lines[at]))).encode()
        content = b"\n".join(lines) + b"\n"
    else:
        content = damaged(data, content)
    path = examples.write("damaged.jsonl", content)
    with tt.open_store("sqlite://") as store:
        assert isinstance(store, DatabaseStore)
        with suppress(tt.TokentapeError):
            (imported, *_) = tt.import_runs(path, store)
            recording = store.recording(imported.run_id)
            again = tt.export_jsonl([recording], store, examples.folder / "again.jsonl")
            with tt.open_store("sqlite://") as other:
                assert isinstance(other, DatabaseStore)
                tt.import_runs(again, other)
                copy = list(other.recording(imported.run_id).records())
                assert copy == list(recording.records())


def _read_all(path: Path) -> None:
    with tt.open_store(path) as store:
        for summary in store.summaries():
            recording = store.recording(summary.run_id)
            list(recording.events())
            recording.turns()
            tt.check(store, summary.run_id)
            store.verdicts(summary.run_id)
            store.floors(summary.run_id)
        for frame in (tt.runs_df, tt.turns_df, tt.tokens_df, tt.verdicts_df):
            frame(store)


def floors(data: st.DataObject, examples: Examples) -> None:
    """A damaged floor is refused; one that is read is written as the same."""
    if data.draw(st.booleans(), label="as JSON"):
        content = json.dumps(changed_value(data, json.loads(examples.floor))).encode()
    else:
        content = damaged(data, examples.floor)
    path = examples.write("damaged.json", content)
    with suppress(tt.TokentapeError):
        floor = tt.read_floor(path)
        tt.write_floor(floor, examples.folder / "again.json")
        assert tt.read_floor(examples.folder / "again.json") == floor


@cache
def _plans() -> list[dict[str, Any]]:
    return [plan.described() for plan in shipped_plans()]


def plans(data: st.DataObject, examples: Examples) -> None:
    """A damaged plan is refused; one that is read is written as the same."""
    example = data.draw(st.sampled_from(_plans()), label="plan")
    if data.draw(st.booleans(), label="as YAML"):
        value = changed_value(data, example)
        try:
            content = yaml.safe_dump(value, allow_unicode=True).encode()
        except (UnicodeEncodeError, yaml.YAMLError):
            return
    else:
        content = damaged(data, yaml.safe_dump(example, allow_unicode=True).encode())
    path = examples.write("damaged.yaml", content)
    with suppress(tt.TokentapeError):
        plan = load_plan(path)
        plan.turns()
        again = examples.write("again.yaml", yaml.safe_dump(plan.described()).encode())
        assert load_plan(again) == plan


@cache
def _readers() -> dict[str, CallReader]:
    readers = {name: CallReader(byte_tokenizer(), TOOLS, name) for name in FORMATS}
    for name, template in TEMPLATES.items():
        with suppress(tt.ToolError):
            tokenizer = with_template(byte_tokenizer(), template)
            readers[name] = CallReader(tokenizer, TOOLS, "learned")
    return readers


_PIECES = (
    *("<tool_call>", "</tool_call>", "<function=", "<parameter=top>", "</function>", "```json\n"),
    *("[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "```tool_code\n", "look_up", "mix(", "name='"),
    *('{"name": "look_up", "arguments": {', '"name": "a", "top": 3', "}}", "]", ")", "\\", "'''"),
)


def calls_of_tools(data: st.DataObject, examples: Examples) -> None:
    """A reader of calls returns calls for any reply, while it grows and when it has ended."""
    name = data.draw(st.sampled_from(sorted(_readers())), label="format")
    reader = _readers()[name]
    written = [write for _, write in WRITTEN.values()]
    write = data.draw(st.sampled_from(written), label="spelling")
    arguments = {"name": data.draw(st.text(max_size=8)), "top": data.draw(VALUES, label="top")}
    try:
        call = write("look_up", arguments)
        call.encode()
    except (UnicodeEncodeError, ValueError):
        call = write("look_up", {"name": "x", "top": 1})
    pieces = data.draw(st.lists(st.sampled_from((*_PIECES, call)), max_size=5), label="pieces")
    text = damaged_text(data, "".join((call, *pieces)))
    ends = {len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=6), label="ends")}
    for end in sorted(ends):
        for found in reader.completed(text[:end]):
            _check_call(found)
    for found in reader.unfinished(text):
        _check_call(found)


def _check_call(call: Any) -> None:
    assert isinstance(call.name, str)
    assert call.error or isinstance(call.arguments, dict)
    json.dumps(call.arguments)


_SIGNATURE = str(SshSignature(public_key=b"\0\0\0\x0bssh-ed25519" + bytes(36), signature=bytes(83)))
_SIGNERS = (
    'ada@x,bob namespaces="tokentape,git",valid-after=20200101Z ssh-ed25519 '
    "AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA a comment\n"
)


def signatures(data: st.DataObject, examples: Examples) -> None:
    """A damaged signature is refused or written as it was read; a file of signers is refused."""
    with suppress(tt.TokentapeError):
        signature = parse_signature(damaged_text(data, _SIGNATURE))
        assert parse_signature(str(signature)) == signature
    with suppress(tt.TokentapeError):
        Signers.read(examples.write("signers", damaged(data, _SIGNERS.encode())))


LAWS: dict[str, Law] = {
    each.__name__: each for each in (tapes, json_lines, floors, plans, calls_of_tools, signatures)
}


def run_law(law: Law, examples: Examples, count: int, *, seed_: int) -> tuple[int, float]:
    """Run a law on `count` draws. Return how many were run, and the seconds of the slowest.

    Raise what the law raises, after Hypothesis has made the draw small.
    """
    ran, slowest = 0, 0.0

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @seed(seed_)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        nonlocal ran, slowest
        started = time.monotonic()
        law(data, examples)
        ran, slowest = ran + 1, max(slowest, time.monotonic() - started)

    run()
    return ran, slowest


def fuzz(torture: Torture) -> Iterator[Row]:
    """Attack every reader."""
    examples = Examples.make(torture.folder)
    for name, law in LAWS.items():
        row = Row(f"fuzz: {name.replace('_', ' ')}")
        count = torture.count(5_000)
        with row.attempt(name):
            ran, slowest = run_law(law, examples, count, seed_=torture.seed)
            row.tried, row.remark = ran, f"slowest {slowest:.1f} s"
            if slowest > SECONDS_MAX:
                row.unexpected += 1
                row.note(f"an example took {slowest:.1f} s")
        yield row
