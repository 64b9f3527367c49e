"""Is this the model, the tokenizer and the machine that were recorded?"""

import shlex
from collections.abc import Collection
from dataclasses import replace

from tokentape.generation import LoadedModel
from tokentape.recorder import Recording
from tokentape.replay.checking.weights import changed_tensors, looks_rounded, recorded_weights
from tokentape.replay.errors import ReplayError
from tokentape.replay.verdict import FieldDifference

# Numbers cannot be expected to agree where one of these differs.
FORBIDDING = ("weights", "tokenizer", "template", "device", "dtype", "random_stream")
_NOTED = ("attention_kernel", "threads", "generation_config")
_NAMES = {"sampler_sha256": "random_stream"}


def repro_line(
    command: str, recording: Recording, lm: LoadedModel, turn: int, *, interventions: bool = True
) -> str:
    """What to type to see one turn of a replay again."""
    line = f"tokentape {command} {recording.run_id} --turn {turn}"
    if recording.where:
        line += f" --store {shlex.quote(recording.where)}"
    if lm.name != recording.started().model:
        line += f" --model {shlex.quote(lm.name)}"
    if not interventions:
        line += " --without-interventions"
    return line


def check_fingerprints(
    recording: Recording, lm: LoadedModel, *, sampled: bool, ignore: Collection[str] = ()
) -> tuple[FieldDifference, ...]:
    """Every fingerprint that differs, those that forbid a comparison first.

    The random stream matters only where tokens were `sampled`. Raises ReplayError for a field to
    `ignore` that forbids nothing.
    """
    if isinstance(ignore, str):
        ignore = (ignore,)
    unknown = sorted(set(ignore) - set(FORBIDDING))
    if unknown:
        raise ReplayError(
            f"there is no fingerprint {unknown[0]!r} to ignore: there are {', '.join(FORBIDDING)}"
        )
    started, now = recording.started(), lm.identity.described()
    weights = lm.identity.weights_sha256_for(started)
    found = _differing("weights_sha256", started.weights_sha256, weights, ignore, forbids=True)
    found = [replace(each, detail=_changed_weights(recording, lm)) for each in found]
    for name in ("tokenizer_sha256", "template_sha256", "device", "dtype"):
        found += _differing(name, getattr(started, name), now[name], ignore, forbids=True)
    recorded, replayed = started.sampler_sha256, now["sampler_sha256"]
    found += _differing("sampler_sha256", recorded, replayed, ignore, forbids=sampled)
    for name in _NOTED:
        found += _differing(name, getattr(started, name), now[name], ignore, forbids=False)
    for name, version in now["environment"].items():
        recorded = started.environment.get(name, "")
        found += _differing(name, recorded, version, ignore, forbids=False)
    return tuple(found)


def _changed_weights(recording: Recording, lm: LoadedModel) -> str:
    """Which tensors are others, where the recording lists them, and what they look like."""
    said = []
    if recording.read_blob is not None:
        recorded = recorded_weights(recording.started(), recording.read_blob)
        if recorded is not None:
            said.append(changed_tensors(recorded, lm.identity.weights).summary)
    rounded = looks_rounded(lm.model)
    if rounded:
        said.append(f"every number of today's is one of {rounded}, as if it had been rounded")
    return "; ".join(said)


def _differing(
    name: str, recorded: object, replayed: object, ignore: Collection[str], *, forbids: bool
) -> list[FieldDifference]:
    if recorded == replayed:
        return []
    field = _NAMES.get(name, name.removesuffix("_sha256"))
    return [
        FieldDifference(
            field=field,
            recorded=str(recorded),
            replayed=str(replayed),
            forbids=forbids,
            ignored=forbids and field in ignore,
        )
    ]
