"""Random faults that no table lists: in a model, its config, its code, or a recording.

Each is drawn from a seed, so that a failing one can be injected again:
`python -m tests.replay.random_faults 100` prints a line for each and counts.
"""

import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache

import torch

import tokentape as tt
from benchmarks.replay.fault_case import Case, record_case
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tests.replay.model_faults import CODE, CONFIG, IN_PLACE, PATCHED, config_field, copy_of
from tests.replay.recording_faults import FORGED
from tokentape.replay.causes.sampler import READ_IDS
from tokentape.replay.checking.teacher_forcing import teacher_forced_logits
from tokentape.replay.results.fingerprint_names import FORBIDDING

FAMILIES = ("llama", "qwen3", "gpt2", "gemma3", "mistral")
FLOOR_NATS = 1e-4
"""The built-in floor of float32."""
_TOKENS = 12
_KINDS = ("config field", *IN_PLACE, *PATCHED, *FORGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOutcome:
    """What a replay says of a random fault."""

    name: str
    moved: bool
    """Whether log-probabilities move beyond the floor, or the recording itself was changed."""
    right: frozenset[str]
    """The causes that are right, besides `unknown`."""
    report: tt.Report

    @property
    def wrong_causes(self) -> list[str]:
        """The causes that the report names and that are not the fault."""
        allowed = self.right | {"unknown"}
        # A sentence may leave open that the ids of the prompt are others.
        named = [each for each in self.report.causes if READ_IDS not in each.sentence]
        return [each.name for each in named if each.name not in allowed]

    @property
    def is_right(self) -> bool:
        """Return whether a fault that moves numbers is found, and no cause is wrong."""
        return not self.wrong_causes and (not self.moved or not self.report.passes)


@cache
def case_of(family: str) -> Case:
    """Return a recording of four turns by a tiny model of a family."""
    return record_case(tiny_model(family, byte_tokenizer()), tokens=_TOKENS)


def inject(seed: int, replay: str = "verify") -> FaultOutcome:
    """Draw a fault, inject it, and replay the result."""
    draw = random.Random(seed)
    kind = _KINDS[seed % len(_KINDS)]
    family = FAMILIES[(seed // len(_KINDS) + seed) % len(FAMILIES)]
    case = case_of(family)
    check = tt.retrace if replay == "retrace" else tt.verify
    with _faulty(kind, case, draw) as (faulty, right, what):
        report = check(faulty.recording, faulty.lm)
        moved = kind in FORGED or _moves(case, faulty)
        if moved and any(each.forbids for each in report.differences):
            numbers = check(faulty.recording, faulty.lm, ignore=list(FORBIDDING))
            assert not numbers.passes, what
    name = f"{seed}: {family}, {kind} ({what})"
    return FaultOutcome(name=name, moved=moved, right=right, report=report)


@contextmanager
def _faulty(
    kind: str, case: Case, draw: random.Random
) -> Iterator[tuple[Case, frozenset[str], str]]:
    """Yield the case with a fault, the causes that are right, and what was changed."""
    if kind in FORGED:
        forge, right = FORGED[kind]
        yield forge(case, draw), right, ""
    elif kind in PATCHED:
        with ExitStack() as stack:
            what = stack.enter_context(PATCHED[kind](case.lm.model, draw))
            yield case, CODE, what
    elif kind == "config field":
        model, what = config_field(case.lm.model, draw)
        yield replace(case, lm=tt.LoadedModel(model, case.lm.tokenizer, case.lm.name)), CONFIG, what
    else:
        change, right = IN_PLACE[kind]
        lm = copy_of(case.lm)
        # As a long-lived process does, which hashed the weights before.
        assert lm.identity.weights_sha256
        what = change(lm.model, draw)
        yield replace(case, lm=lm), right, what


def _moves(case: Case, faulty: Case) -> bool:
    """Return whether the model in `faulty` gives other log-probabilities than were recorded."""
    for turn in case.recording.turns():
        ids = (*turn.prompt_ids, *turn.reply_ids)
        rows = [len(turn.prompt_ids) + index - 1 for index in range(len(turn.tokens))]
        logits = torch.cat(list(teacher_forced_logits(faulty.lm.model, ids, rows)))
        chosen = torch.log_softmax(logits, dim=-1).gather(
            1, torch.tensor([[each] for each in turn.reply_ids])
        )
        recorded = torch.tensor([each.logprob for each in turn.tokens])
        if (chosen[:, 0] - recorded).abs().max() > FLOOR_NATS:
            return True
    return False


def main(count: int, replay: str = "verify") -> int:
    """Inject faults, print a line for each and the counts; return how many are not right."""
    counts: Counter[str] = Counter()
    for seed in range(count):
        found = inject(seed, replay)
        first = found.report.causes[0] if found.report.causes else None
        counts["moved"] += found.moved
        counts["detected"] += found.moved and not found.report.passes
        counts["wrong causes"] += bool(found.wrong_causes)
        counts["honest unknowns"] += first is not None and first.name == "unknown"
        counts["not right"] += not found.is_right
        mark = "" if found.is_right else "  WRONG"
        named = ", ".join(each.name for each in found.report.causes) or "none"
        print(f"{found.name}: {found.report.verdict}, {named}{mark}", flush=True)
        if mark and first is not None:
            print(f"    {first.sentence}")
    print(", ".join(f"{name} {number}" for name, number in counts.items()), f"of {count}")
    return counts["not right"]


if __name__ == "__main__":
    sys.exit(1 if main(int(sys.argv[1]), *sys.argv[2:]) else 0)
