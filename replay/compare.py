"""Is this the model, the tokenizer and the machine that were recorded?"""

import shlex
from collections.abc import Collection

from generation import LoadedModel
from recorder import Recording
from recorder.events import RunStarted
from replay.errors import ReplayError
from replay.verdict import FieldDifference

# Numbers cannot be expected to agree where one of these differs.
FORBIDDING = ("weights", "tokenizer", "template", "device", "dtype", "random_stream")
_NOTED = ("attention_kernel", "threads", "generation_config")
_NAMES = {"sampler_sha256": "random_stream"}


def repro_line(command: str, recording: Recording, lm: LoadedModel, turn: int) -> str:
    """What to type to see one turn of a replay again."""
    line = f"tokentape {command} {recording.run_id} --turn {turn}"
    if recording.where:
        line += f" --store {shlex.quote(recording.where)}"
    if lm.name != recording.started().model:
        line += f" --model {shlex.quote(lm.name)}"
    return line


def compare_fingerprints(
    started: RunStarted, lm: LoadedModel, *, sampled: bool, ignore: Collection[str] = ()
) -> tuple[FieldDifference, ...]:
    """Every fingerprint that differs, those that forbid a comparison first.

    The random stream matters only where tokens were `sampled`. Raises ReplayError for a field to
    `ignore` that forbids nothing.
    """
    unknown = sorted(set(ignore) - set(FORBIDDING))
    if unknown:
        raise ReplayError(
            f"there is no fingerprint {unknown[0]!r} to ignore: there are {', '.join(FORBIDDING)}"
        )
    now = lm.identity.described()
    found = []
    for name in ("weights_sha256", "tokenizer_sha256", "template_sha256", "device", "dtype"):
        found += _differing(name, getattr(started, name), now[name], ignore, forbids=True)
    recorded, replayed = started.sampler_sha256, now["sampler_sha256"]
    found += _differing("sampler_sha256", recorded, replayed, ignore, forbids=sampled)
    for name in _NOTED:
        found += _differing(name, getattr(started, name), now[name], ignore, forbids=False)
    for name, version in now["environment"].items():
        recorded = started.environment.get(name, "")
        found += _differing(name, recorded, version, ignore, forbids=False)
    return tuple(found)


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
