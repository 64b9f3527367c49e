"""Several processes record into one file, which none of them has made yet."""

import subprocess
import sys
from pathlib import Path

import tokentape as tt
from recorder.events import CacheCleared

PROGRAM = """
import sys
from recorder import Recorder
from recorder.events import CacheCleared, RunStarted
from store import open_store

started = RunStarted(
    name=sys.argv[2], seed=1, model="m", weights_sha256="", tokenizer_sha256="",
    template_sha256="", generation_config={}, sampler_sha256="", dtype="float32", device="cpu",
    attention_kernel="sdpa", threads=1, context_tokens=None, environment={}, behaviour={},
)
with open_store(sys.argv[1]) as store, Recorder(store) as recorder:
    recorder.record(started)
    for number in range(200):
        recorder.record(CacheCleared(reason=sys.argv[2], freed_bytes=number))
"""


def test_no_event_is_lost_repeated_or_put_into_another_run(tmp_path: Path) -> None:
    database = tmp_path / "runs.db"
    names = ["a", "b", "c", "d"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(database), name],
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    complaints = [process.communicate()[1] for process in processes]
    with tt.open_store(database) as store:
        summaries = store.summaries()
        events = {
            summary.name: list(store.recording(summary.run_id).events()) for summary in summaries
        }

    assert complaints == [""] * len(names)
    assert sorted(events) == names
    for name, envelopes in events.items():
        cleared = [each.event for each in envelopes if isinstance(each.event, CacheCleared)]
        assert [each.seq for each in envelopes] == list(range(202))
        assert [event.freed_bytes for event in cleared] == list(range(200))
        assert {event.reason for event in cleared} == {name}
