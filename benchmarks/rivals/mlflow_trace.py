"""MLflow: a trace of the conversation in SQLite, a span for each call of the model.

`python -m benchmarks.rivals.mlflow_trace TALK FOLDER`, in an environment with mlflow.
"""

import contextlib
import gc
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

# Faster in all than its default, a queue whose thread is waited for at the end.
os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"

import mlflow
from mlflow.entities import SpanType

from benchmarks.rivals.talk import Kept, Talk, answer, arguments

_EXPERIMENT = "store"


def keep(talk: Talk, logprobs: list[list[dict[str, Any]]]) -> float:
    """The seconds that one trace took; it is in the file when its last span has ended."""
    messages = [{"role": "system", "content": talk.system_prompt}]
    gc.collect()
    began = time.perf_counter()
    with mlflow.start_span("conversation"):
        for question, reply, each in zip(talk.questions, talk.replies, logprobs, strict=True):
            messages.append({"role": "user", "content": question})
            with mlflow.start_span("generate", span_type=SpanType.CHAT_MODEL) as span:
                span.set_inputs({"messages": messages})
                span.set_outputs({"choices": [_choice(reply, each)]})
            messages.append({"role": "assistant", "content": reply})
    return time.perf_counter() - began


def _choice(reply: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "index": 0,
        "message": {"role": "assistant", "content": reply},
        "logprobs": {"content": logprobs},
        "finish_reason": "length",
    }


def _use(path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{path}")


def _empty(folder: Path) -> Path:
    """A database with an experiment and nothing in it: making one takes seconds."""
    path = folder / "empty.db"
    _use(path)
    mlflow.create_experiment(_EXPERIMENT, artifact_location=(folder / "artifacts").as_uri())
    return path


def _kept_in(path: Path, empty: Path, talk: Talk, logprobs: list[Any]) -> float:
    shutil.copy(empty, path)
    _use(path)
    mlflow.set_experiment(_EXPERIMENT)
    seconds = keep(talk, logprobs)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (spans,) = connection.execute("SELECT count(*) FROM spans").fetchone()
    if spans != len(talk.questions) + 1:
        raise SystemExit(f"{spans} spans were kept of {len(talk.questions) + 1}")
    return seconds


def main() -> None:
    talk, folder = arguments()
    empty = _empty(folder)
    _kept_in(folder / "warm.db", empty, talk.first_turn(), talk.logprobs[:1])
    path, precise = folder / "traces.db", folder / "precise.db"
    seconds = _kept_in(path, empty, talk, talk.logprobs)
    _kept_in(precise, empty, talk, talk.precise_logprobs)
    before, whole = empty.stat().st_size, path.stat().st_size
    kept = Kept(
        name=f"MLflow {mlflow.__version__}",
        seconds=seconds,
        when="a span at the end of each turn",
        all_bytes=whole - before,
        precise_bytes=precise.stat().st_size - before,
        counted=f"growth of the database, {whole / 1e6:.1f} MB in all",
    )
    answer(folder, [kept])


if __name__ == "__main__":
    main()
