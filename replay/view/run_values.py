"""The header of a document: the run and its facts."""

from typing import Any

from tokentape.recorder.events import RunFailed
from tokentape.replay.recorded.loaded_run import LoadedRun
from tokentape.replay.view.json_values import json_value
from tokentape.replay.view.run_reading import ReadRun
from tokentape.store.labels import Labels


def run_values(read: ReadRun, labels: Labels) -> dict[str, Any]:
    """Return what the document says of the run as a whole."""
    run = read.run
    started, forked, ended = run.started, run.forked, run.ended()
    began = run.own_envelopes[0].at_us
    return {
        "run_id": run.run_id,
        "name": started.name,
        "model": started.model,
        "status": "running" if ended is None else ended.status,
        "error": ended.error_text if isinstance(ended, RunFailed) else None,
        "seed": json_value(started.seed),
        "dtype": started.dtype,
        "device": started.device,
        "attention": started.attention_kernel,
        "started_at_us": began,
        "duration_us": max(0, read.last_at_us - began),
        "where": run.recording.where,
        "tags": list(labels.tags),
        "note": labels.note,
        "redacted": started.redacted,
        "last_seq": read.last_seq,
        "tokentape_version": started.tokentape_version,
        "parent": None
        if forked is None
        else {
            "run_id": forked.parent_run_id,
            "turn": forked.at_turn,
            "token": forked.at_token,
        },
        "facts": [[name, str(value)] for name, value in _facts(run) if value not in ("", None)],
    }


def _facts(run: LoadedRun) -> list[tuple[str, Any]]:
    started = run.started
    plan = started.settings.get("plan")
    name = plan.get("name") if isinstance(plan, dict) else None
    stored = started.loading.get("dtype", started.dtype)
    return [
        ("plan", name),
        ("weights in", "" if stored == started.dtype else stored),
        ("threads", started.threads),
        ("context", f"{started.context_tokens:,} tokens" if started.context_tokens else ""),
        ("tools", ", ".join(started.tools)),
        ("model class", started.model_class),
        ("tokentape", started.tokentape_version),
        *((name, started.environment.get(name)) for name in ("torch", "transformers")),
        *(("warning", each) for each in started.warnings),
        ("forked with another model", ", ".join(run.forked.other_model) if run.forked else ""),
    ]
