"""JSON lines that other programs have touched, and many runs in one file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.store.made_families import fork, short_run
from tests.store.made_runs import make_run, verdict_of
from tokentape.store import DatabaseStore
from tokentape.store.copies import jsonl

Touch = Callable[[bytes], bytes]


def rewritten(raw: bytes, **options: Any) -> bytes:
    lines = (json.dumps(json.loads(line), **options) for line in raw.splitlines())
    return "".join(f"{line}\n" for line in lines).encode()


@pytest.fixture
def exported(store: DatabaseStore, tmp_path: Path) -> Path:
    """A file of two runs, one with payloads and a verdict."""
    run_ids = [make_run(store), make_run(store, turns=1)]
    store.add_verdict(verdict_of(run_ids[0]))
    recordings = [store.recording(run_id) for run_id in run_ids]
    return tt.export_jsonl(recordings, store, tmp_path / "runs.jsonl")


TOUCHES: dict[str, Touch] = {
    "unescaped": lambda raw: rewritten(raw, ensure_ascii=False, separators=(",", ":")),
    "spaced": rewritten,
    "sorted": lambda raw: rewritten(raw, ensure_ascii=False, sort_keys=True),
    "crlf": lambda raw: raw.replace(b"\n", b"\r\n"),
    "byte order mark": lambda raw: b"\xef\xbb\xbf" + raw,
    "two files with byte order marks": lambda raw: b"\xef\xbb\xbf".join(
        [b"", *raw.split(b"\n", 3)[:3], raw.split(b"\n", 3)[3]]
    ).replace(b"}\xef\xbb\xbf", b"}\n\xef\xbb\xbf"),
    "blank lines": lambda raw: b"\n \n" + raw.replace(b"\n", b"\n\t\r\n\n"),
    "no last end of line": lambda raw: raw.rstrip(b"\n"),
    "interleaved runs": lambda raw: b"".join(
        sorted(
            raw.splitlines(keepends=True),
            key=lambda line: json.loads(line).get("seq", -1 if b"payload" in line else 1e9),
        )
    ),
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_lines_that_another_program_has_touched_are_the_same_runs(
    touch: str, exported: Path, store: DatabaseStore
) -> None:
    exported.write_bytes(TOUCHES[touch](exported.read_bytes()))
    with tt.open_store("sqlite://") as other:
        assert [each.added for each in tt.import_runs(exported, other)] == [True, True]
        for summary in store.summaries():
            run_id = summary.run_id
            theirs = list(other.recording(run_id).records())
            assert theirs == list(store.recording(run_id).records())
            assert other.verdicts(run_id) == store.verdicts(run_id)
            assert tt.check(other, run_id).faults == ()


@pytest.mark.parametrize(
    ("touch", "complaint"),
    [
        (lambda raw: raw[:-40], r"line \d+ is cut off"),
        (lambda raw: raw[: raw.index(b"\n") + 30], r"line 2 is cut off"),
        (lambda raw: b"", "is empty"),
        (lambda raw: b"\n \n", "is empty"),
        (lambda raw: raw.decode().encode("utf-16"), "UTF-16"),
        (lambda raw: raw.decode().encode("utf-16-le"), "UTF-16"),
        (lambda raw: json.dumps([json.loads(line) for line in raw.splitlines()]).encode(), "jq"),
        (lambda raw: json.dumps(json.loads(raw.splitlines()[0]), indent=2).encode(), "jq"),
        (lambda raw: raw.replace(b'"by', b'"\xe9', 1), "not text in UTF-8"),
        (lambda raw: raw + b'{"run_id":"a"}', r"line \d+ is not a record"),
    ],
)
def test_a_file_that_is_not_lines_of_json_is_refused_with_its_fault(
    touch: Touch, complaint: str, exported: Path
) -> None:
    exported.write_bytes(touch(exported.read_bytes()))
    with tt.open_store("sqlite://") as other:
        with pytest.raises(tt.StoreError, match=complaint) as refused:
            tt.import_runs(exported, other)
        assert other.summaries() == []
    assert str(exported) in str(refused.value)
    assert "\n" not in str(refused.value)


def lines_parsed_by_an_import(
    path: Path, runs: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int]:
    """Return how many lines an import of a file parses, and how many the file has."""
    parsed = 0
    loads = jsonl.parse_line

    def count(text: bytes) -> Any:
        nonlocal parsed
        parsed += 1
        return loads(text)

    with monkeypatch.context() as patched, tt.open_store("sqlite://") as other:
        patched.setattr(jsonl, "parse_line", count)
        assert len(tt.import_runs(path, other)) == runs
    return parsed, len(path.read_bytes().splitlines())


@pytest.mark.parametrize("family", [False, True])
def test_an_import_reads_each_line_a_few_times_however_many_runs_there_are(
    family: bool, store: DatabaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = []
    for runs in (4, 16):
        if family:
            parent = short_run(store, turns=24)
            run_ids = [fork(store, parent, at_turn=2 + number) for number in range(runs)]
        else:
            run_ids = [make_run(store, turns=1) for _ in range(runs)]
        recordings = [store.recording(run_id) for run_id in run_ids]
        path = tt.export_jsonl(recordings, store, tmp_path / f"{runs}.jsonl")
        parsed, lines = lines_parsed_by_an_import(path, runs + family, monkeypatch)
        readings.append(parsed / lines)

    assert readings[1] <= readings[0] + 0.5
    assert readings[1] < 8


def test_lines_of_one_run_are_one_stretch(exported: Path) -> None:
    lines = jsonl.JsonlFile(exported)

    assert {len(each) for each in lines._stretches.values()} == {1}


@pytest.mark.parametrize("sha256", [[], {}, None, 7])
def test_a_payload_without_a_sum_is_refused_with_its_line(exported: Path, sha256: Any) -> None:
    lines = [json.loads(line) for line in exported.read_bytes().splitlines()]
    number = next(number for number, line in enumerate(lines, 1) if "payload" in line)
    lines[number - 1]["sha256"] = sha256
    exported.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    with pytest.raises(tt.StoreError, match=f"line {number} is not a record of a run"):
        jsonl.JsonlFile(exported)
