"""MLflow: a trace of the conversation in SQLite, a span for each call of the model.

`python -m benchmarks.rivals.mlflow_trace TASK FOLDER`, in an environment with mlflow.
"""

import contextlib
import gc
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

# Faster in total than the default, a queue that is flushed at the end.
os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"

import mlflow
from mlflow.entities import SpanType

from benchmarks.rivals.task import RivalResult, RivalTask, arguments, write_results

_EXPERIMENT = "store"


def trace_task(task: RivalTask, logprobs: list[list[dict[str, Any]]]) -> float:
    """Write one trace; return its seconds. It is in the file when its last span has ended."""
    messages = [{"role": "system", "content": task.system_prompt}]
    gc.collect()
    began = time.perf_counter()
    with mlflow.start_span("conversation"):
        for question, reply, each in zip(task.questions, task.replies, logprobs, strict=True):
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
    """Create a database with an empty experiment, which takes seconds, and return its path."""
    path = folder / "empty.db"
    _use(path)
    mlflow.create_experiment(_EXPERIMENT, artifact_location=(folder / "artifacts").as_uri())
    return path


def _trace_into(path: Path, empty: Path, task: RivalTask, logprobs: list[Any]) -> float:
    """Trace the task into a copy of the empty database; return the seconds."""
    shutil.copy(empty, path)
    _use(path)
    mlflow.set_experiment(_EXPERIMENT)
    seconds = trace_task(task, logprobs)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (spans,) = connection.execute("SELECT count(*) FROM spans").fetchone()
    if spans != len(task.questions) + 1:
        raise SystemExit(f"{spans} of {len(task.questions) + 1} spans were stored")
    return seconds


def main() -> None:
    task, folder = arguments()
    empty = _empty(folder)
    _trace_into(folder / "warm.db", empty, task.first_turn(), task.logprobs[:1])
    path, float32 = folder / "traces.db", folder / "float32.db"
    seconds = _trace_into(path, empty, task, task.logprobs)
    _trace_into(float32, empty, task, task.float32_logprobs)
    before, whole = empty.stat().st_size, path.stat().st_size
    result = RivalResult(
        name=f"MLflow {mlflow.__version__}",
        seconds=seconds,
        when="a span at the end of each turn",
        all_bytes=whole - before,
        float32_bytes=float32.stat().st_size - before,
        counted=f"growth of the database, {whole / 1e6:.1f} MB in all",
    )
    write_results(folder, [result])


if __name__ == "__main__":
    main()
