"""Is this the model, the tokenizer and the machine that were recorded?"""

import shlex

from generation import LoadedModel
from recorder import Recording
from recorder.events import RunStarted
from replay.verdict import FieldDifference

# Numbers cannot be expected to agree where one of these differs.
_FORBIDDING = ("weights_sha256", "tokenizer_sha256", "template_sha256", "device", "dtype")
_NOTED = ("attention_kernel", "threads", "generation_config")


def repro_line(command: str, recording: Recording, lm: LoadedModel, turn: int) -> str:
    """What to type to see one turn of a replay again."""
    line = f"tokentape {command} {recording.run_id} --turn {turn}"
    if recording.where:
        line += f" --store {shlex.quote(recording.where)}"
    if lm.name != recording.started().model:
        line += f" --model {shlex.quote(lm.name)}"
    return line


def compare_fingerprints(
    started: RunStarted, lm: LoadedModel, *, sampled: bool
) -> tuple[FieldDifference, ...]:
    """Every fingerprint that differs, those that forbid a comparison first.

    The random stream matters only where tokens were `sampled`.
    """
    now = lm.identity.described()
    forbidding = (*_FORBIDDING, "sampler_sha256") if sampled else _FORBIDDING
    found = []
    for name in (*forbidding, *_NOTED):
        recorded, replayed = getattr(started, name), now[name]
        if recorded != replayed:
            found.append(
                FieldDifference(
                    field=name.removesuffix("_sha256"),
                    recorded=str(recorded),
                    replayed=str(replayed),
                    forbids=name in forbidding,
                )
            )
    for name, replayed in now["environment"].items():
        recorded = started.environment.get(name, "")
        if recorded != replayed:
            found.append(
                FieldDifference(field=name, recorded=recorded, replayed=replayed, forbids=False)
            )
    return tuple(found)
