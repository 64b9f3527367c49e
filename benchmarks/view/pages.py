"""The page of a long conversation, made from a store."""

import time
from dataclasses import dataclass
from pathlib import Path

import tokentape as tt
from benchmarks.store.workload import make_workload
from tokentape.replay.view.document import view_document
from tokentape.replay.view.page import view_page
from tokentape.store import DatabaseStore


@dataclass(frozen=True, slots=True, kw_only=True)
class MadePage:
    """A page in a file, and what it took to make it from the recording."""

    path: Path
    tokens: int
    turns: int
    made_s: float
    page_bytes: int
    document_bytes: int
    """Bytes of the packed document in the page; the rest are script and style."""


def make_page(lm: tt.LoadedModel, folder: Path, *, turns: int, turn_tokens: int) -> MadePage:
    """Store a run of synthetic tokens, and write its page into the folder."""
    workload = make_workload(lm, turns=turns, turn_tokens=turn_tokens)
    url = f"sqlite:///{folder / f'{turns}x{turn_tokens}.db'}"
    with tt.open_store(url) as store:
        assert isinstance(store, DatabaseStore)
        recorder = tt.Recorder(store)
        for _, event in workload.events:
            recorder.record(event)
        recording = store.recording(recorder.run_id)
        began = time.perf_counter()
        document = view_document(recording)
        html = view_page(document)
        made_s = time.perf_counter() - began
    path = folder / f"{turns}x{turn_tokens}.html"
    path.write_text(html, encoding="utf-8")
    packed = html.partition('id="document"')[2].partition("<")[0]
    return MadePage(
        path=path,
        tokens=workload.tokens,
        turns=turns,
        made_s=made_s,
        page_bytes=path.stat().st_size,
        document_bytes=len(packed),
    )
