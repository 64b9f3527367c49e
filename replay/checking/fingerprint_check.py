"""Comparison of the recorded fingerprints of model, tokenizer and machine with today's."""

import shlex
from collections.abc import Collection, Sequence
from dataclasses import replace

from tokentape.generation import LoadedModel
from tokentape.generation.fingerprints import environment_differences
from tokentape.generation.fingerprints.adapter_state import active_adapters
from tokentape.generation.models.model_places import place_of_model
from tokentape.recorder import Recording
from tokentape.recorder.events import RunStarted
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.model_check import model_differences
from tokentape.replay.checking.weights import changed_tensors, recorded_weights, rounded_dtype
from tokentape.replay.recorded.loaded_run import LoadedRun
from tokentape.replay.results.fingerprint_names import check_ignored
from tokentape.replay.results.report import FingerprintDifference

_NOTED = ("attention_kernel", "threads", "generation_config")
_NAMES = {"sampler_sha256": "random_stream"}


def repro_line(
    command: str, run: LoadedRun, lm: LoadedModel, turn: int, *, interventions: bool = True
) -> str:
    """Return the command line that repeats the replay of one turn."""
    line = f"tokentape {command} {run.run_id} --turn {turn}"
    if run.recording.where:
        line += f" --store {shlex.quote(run.recording.where)}"
    if lm.name not in (run.started.model, place_of_model(run.started)):
        line += f" --model {shlex.quote(lm.name)}"
    if not interventions:
        line += " --without-interventions"
    return line


def without_places(repro: str) -> str:
    """Return a line of `repro_line` without the store and the model: they are of this machine."""
    words = shlex.split(repro)
    for option in ("--store", "--model"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    return shlex.join(words)


def check_fingerprints(
    run: LoadedRun,
    lm: LoadedModel,
    turns: Sequence[Turn],
    *,
    sampled: bool,
    ignore: Collection[str] = (),
) -> tuple[FingerprintDifference, ...]:
    """Return every fingerprint that differs, those that forbid a comparison first.

    The adapters are those of the `turns` to replay; recordings of 0.1.0 do not say which they were.
    The random stream counts only if tokens were `sampled`. Raise ReplayError if `ignore` names a
    field that forbids nothing.
    """
    ignore = check_ignored(ignore)
    started, now = run.started, lm.identity.described()
    recorded, replayed = started.weights_sha256, now["weights_sha256"]
    found = _differing("weights_sha256", recorded, replayed, ignore, forbids=True)
    found = [replace(each, detail=_changed_weights(run.recording, started, lm)) for each in found]
    for recorded in recorded_adapters(turns):
        found += _differing("adapters", recorded, active_adapters(lm.model), ignore, forbids=True)
    found += model_differences(started, now, turns, ignore)
    for name in ("tokenizer_sha256", "template_sha256", "device", "dtype"):
        found += _differing(name, getattr(started, name), now[name], ignore, forbids=True)
    recorded, replayed = started.sampler_sha256, now["sampler_sha256"]
    found += _differing("sampler_sha256", recorded, replayed, ignore, forbids=sampled)
    for name in _NOTED:
        found += _differing(name, getattr(started, name), now[name], ignore, forbids=False)
    for name, recorded, replayed in environment_differences(
        started.environment, now["environment"]
    ):
        found += _differing(name, recorded, replayed, ignore, forbids=False)
    return tuple(sorted(found, key=lambda each: not each.forbids))


def recorded_adapters(turns: Sequence[Turn]) -> tuple[str, ...]:
    """Return the adapters of the turns that say which they were, each once, in order."""
    keys = (turn.cache.key for turn in turns if turn.cache is not None and turn.cache.key)
    return tuple(dict.fromkeys(str(key.get("adapters", "none")) for key in keys))


def adapters_known(turns: Sequence[Turn]) -> bool:
    """Return whether every turn says which adapters it was generated with."""
    return all(turn.cache is not None and turn.cache.key for turn in turns)


def _changed_weights(recording: Recording, started: RunStarted, lm: LoadedModel) -> str:
    """Return which tensors differ, as far as known, and whether today's look rounded."""
    parts = []
    if recording.read_blob is not None:
        recorded = recorded_weights(started, recording.read_blob)
        if recorded is not None:
            parts.append(changed_tensors(recorded, lm.identity.weights).summary)
    rounded = rounded_dtype(lm.model)
    if rounded:
        parts.append(f"every number of today's weights is a {rounded}, as if it had been rounded")
    return "; ".join(parts)


def _differing(
    name: str, recorded: object, replayed: object, ignore: Collection[str], *, forbids: bool
) -> list[FingerprintDifference]:
    if recorded == replayed:
        return []
    field = _NAMES.get(name, name.removesuffix("_sha256"))
    return [
        FingerprintDifference(
            field=field,
            recorded=str(recorded),
            replayed=str(replayed),
            forbids=forbids,
            ignored=forbids and field in ignore,
        )
    ]
