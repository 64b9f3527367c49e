"""Runs as a log of Inspect, which `read_eval_log` and `inspect view` open."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokentape.recorder import Recording
from tokentape.recorder.atomic_write import atomic_write
from tokentape.recorder.paths import expand_path
from tokentape.recorder.regular_file import check_not_special
from tokentape.store.copies.exported_run import exported_runs
from tokentape.store.copies.extras import needing
from tokentape.store.errors import StoreError
from tokentape.store.source import Attachments

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalResults, EvalSample

_FORMATS: dict[str, Any] = {".eval": "eval", ".json": "json"}


def export_eval(recordings: Iterable[Recording], attached: Attachments, path: Path | str) -> Path:
    """Write runs to a log of Inspect, a sample for each, and return its path.

    The name ends with `.eval` or `.json`, which are the two formats of Inspect. `attached` supplies
    the verdicts, which become scores; usually it is the store of the runs. An earlier export at
    that path is replaced atomically. Ids of samples, messages and events are made from those of the
    runs. Raise MissingLibraryError without inspect_ai, and StoreError if there is no run, if the
    path has any other file, or if it cannot be written.

    Example:
        >>> import tokentape as tt
        >>> path = tt.export_eval([store.recording(run_id)], store, tmp_path / "run.eval")
        >>> from inspect_ai.log import read_eval_log
        >>> (sample,) = read_eval_log(str(path)).samples
        >>> [message.role for message in sample.messages][:2]
        ['system', 'user']
    """
    path = expand_path(path)
    if path.suffix not in _FORMATS:
        raise StoreError(f"{path}: the name of a log of Inspect ends with .eval or .json")
    with needing("inspect_ai", extra="inspect", what="an export to Inspect"):
        from inspect_ai.log import write_eval_log

        from tokentape.store.copies.inspect_samples import sample_of
    samples = [sample_of(each, attached) for each in exported_runs(recordings)]
    if not samples:
        raise StoreError("there is no run to export")
    _make_unique(samples)
    log, form = _log_of(samples), _FORMATS[path.suffix]
    try:
        check_not_special(path)
        _check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, durable=True) as tmp_path:
            write_eval_log(log, str(tmp_path), format=form)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot write {path}: {error}") from None
    return path


def _check_replaceable(path: Path) -> None:
    if not path.exists():
        return
    from inspect_ai.log import read_eval_log

    try:
        found = read_eval_log(str(path), header_only=True, format=_FORMATS[path.suffix])
        if "tokentape" in (found.eval.metadata or {}):
            return
    # Inspect raises errors of zip files, JSON and pydantic.
    except Exception:
        pass
    raise StoreError(
        f"{path} exists and is not an export of runs: move it away, or choose another name"
    )


def _make_unique(samples: Sequence["EvalSample"]) -> None:
    """Give samples of the same id and epoch, such as forks, the next free epochs."""
    taken: set[tuple[str, int]] = set()
    for sample in samples:
        while (str(sample.id), sample.epoch) in taken:
            sample.epoch += 1
        taken.add((str(sample.id), sample.epoch))


def _log_of(samples: list["EvalSample"]) -> "EvalLog":
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec, EvalStats

    facts = [each.metadata["tokentape"] for each in samples]
    run_ids = [each["run_id"] for each in facts]
    id_ = hashlib.sha256("\n".join(run_ids).encode()).hexdigest()[:22]
    models = [*dict.fromkeys(each["model"] for each in facts)]
    plans = {each["plan"] for each in facts}
    name = facts[0]["name"] if len(samples) == 1 else None
    task = plans.pop() if len(plans) == 1 else None
    starts = [each.started_at for each in samples if each.started_at]
    ends = [each.completed_at for each in samples if each.completed_at]
    spec = EvalSpec(
        eval_id=id_,
        run_id=id_,
        task_id=id_,
        created=min(starts),
        task=task or name or "tokentape",
        dataset=EvalDataset(
            name=facts[0]["store"],
            samples=len(samples),
            sample_ids=[*dict.fromkeys(each.id for each in samples)],
        ),
        model=models[0] if len(models) == 1 and models[0] else "several" if models[1:] else "none",
        config=EvalConfig(epochs=max(each.epoch for each in samples)),
        packages={"tokentape": version("tokentape")},
        metadata={"tokentape": {"run_ids": run_ids, "models": models}},
    )
    usage: dict[str, Any] = {}
    for sample in samples:
        for model, each in sample.model_usage.items():
            usage[model] = usage[model] + each if model in usage else each
    return EvalLog(
        status="success",
        eval=spec,
        stats=EvalStats(started_at=min(starts), completed_at=max(ends), model_usage=usage),
        results=_results_of(samples),
        samples=samples,
    )


def _results_of(samples: Sequence["EvalSample"]) -> "EvalResults":
    """Return how often each replay came to each verdict."""
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore

    verdicts: dict[str, Counter[str]] = {}
    for sample in samples:
        for replay, score in (sample.scores or {}).items():
            verdicts.setdefault(replay, Counter())[str(score.value)] += 1
    scores = [
        EvalScore(
            name=replay,
            scorer=replay,
            scored_samples=counts.total(),
            unscored_samples=len(samples) - counts.total(),
            metrics={each: EvalMetric(name=each, value=count) for each, count in counts.items()},
        )
        for replay, counts in verdicts.items()
    ]
    completed = sum(each.error is None for each in samples)
    return EvalResults(total_samples=len(samples), completed_samples=completed, scores=scores)
