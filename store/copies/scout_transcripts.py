"""A run as a transcript of Inspect Scout."""

from typing import Any

from inspect_scout import Transcript

from tokentape.store.copies.exported_run import ExportedRun
from tokentape.store.copies.inspect_messages import instant, messages_of
from tokentape.store.copies.inspect_samples import (
    error_of,
    events_of,
    identity_of,
    metadata_of,
)
from tokentape.store.source import Attachments

_OWN_COLUMNS = ("events_data", "filename")
_INT64 = range(-(2**63), 2**63)


def transcript_of(run: ExportedRun, attached: Attachments) -> Transcript:
    """Return a run as a transcript, with its verdicts in the metadata and the events."""
    messages, verdicts = messages_of(run), attached.verdicts(run.run_id)
    sample_id, epoch = identity_of(run)
    error = error_of(run)
    plan = run.started.settings.get("plan")
    tokens = sum(
        each.started.prompt_tokens + len(each.tokens)
        for each in run.rounds
        if each.run_id == run.run_id
    )
    metadata = {_column(name): _storable(each) for name, each in metadata_of(run).items()}
    metadata["tokentape"]["verdicts"] = {each.replay: each.verdict for each in verdicts}
    return Transcript(
        transcript_id=run.run_id,
        source_type="tokentape",
        source_id=run.run_id,
        source_uri=run.url,
        date=instant(run.started_us).isoformat(),
        task_set=str(plan.get("name")) if isinstance(plan, dict) and plan.get("name") else None,
        task_id=sample_id,
        task_repeat=epoch,
        agent=run.started.name or None,
        model=run.started.model or None,
        model_options={"seed": run.started.seed, "dtype": run.started.dtype},
        message_count=len(messages),
        total_time=max(run.ended_us - run.started_us, 0) / 1e6,
        total_tokens=tokens,
        error=None if error is None else error.message,
        metadata=metadata,
        messages=messages,
        events=events_of(run, messages, verdicts),
    )


def _column(name: str) -> str:
    """Return the name of a column for a value of the run's metadata."""
    is_taken = name in Transcript.model_fields or name in _OWN_COLUMNS
    return f"run_{name}" if is_taken else name


def _storable(value: Any) -> Any:
    return str(value) if isinstance(value, int) and value not in _INT64 else value
