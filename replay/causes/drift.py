"""The cause of log-probabilities that differ by more than the floor."""

from collections.abc import Sequence

import torch

from tokentape.recorder.projections import ActiveRange
from tokentape.replay.causes.adapters import unknown_adapters
from tokentape.replay.causes.evidence import Evidence
from tokentape.replay.causes.prompts import undecodable_text
from tokentape.replay.checking.check_turns import CheckedTurn
from tokentape.replay.checking.teacher_forcing import teacher_forced_logits
from tokentape.replay.results.report import Cause, Divergence
from tokentape.replay.results.verdict import CauseKind

# Kernels, libraries and processors cause differences of at most this many floors.
_NUMERICS_FACTOR = 30.0
# Float32 computed in TF32 or bfloat16 differs by more: TF32 by 0.033 nats at most (docs/limits.md).
_REDUCED_NATS = 0.1
_REDUCING = (
    "DNNL_DEFAULT_FPMATH_MODE",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "cudnn_tf32",
    "float32_matmul",
    "fp16_accumulation",
    "mkldnn_conv",
)
_NOT_NUMERIC = ("generation_config", "platform", "python")
"""Fields that differ without an effect on the numbers."""
# A tampered token's log-probability differs by more than the first number, and those of the top
# tokens, recorded in half precision, by less than the second.
_TAMPERED_NATS = 0.05
_TOP_NATS = 0.02
_INTERVENTIONS_TRIED = 4


def cause_of_drift(evidence: Evidence, turn: CheckedTurn, floor: float) -> Cause:
    """Return the cause of the first drift in a turn that drifts; `floor` is in nats."""
    step_in_round = next(i for i, each in enumerate(turn.differences) if each > floor)
    number, step = turn.turn.number, turn.turn.first_step + step_in_round

    def cause(name: CauseKind, sentence: str) -> Cause:
        return Cause(name=name, sentence=sentence, turn=number, step=step)

    place = f"turn {number}, token {step}"
    differ = f"{place}: from this token on, log-probabilities differ"
    left_out = () if evidence.interventions.enabled else turn.turn.interventions
    if left_out:
        without = f"{differ}: replayed without {interventions_text(left_out)}"
        return cause(CauseKind.INTERVENTION, without)
    divergence = next((each for each in turn.divergences if each.step == step), None)
    if divergence is not None and _is_tampered(divergence, step_in_round):
        tampered = f"{place}: the model did not produce this token: the token was altered"
        return cause(CauseKind.TOKEN, tampered)
    for name in (CauseKind.WEIGHTS, CauseKind.ADAPTERS, CauseKind.DTYPE):
        if evidence.differs(name):
            return cause(name, f"{differ}: {name} changed")
    numerics = [
        each for each in evidence.differences if not each.forbids and each.field not in _NOT_NUMERIC
    ]
    reduced = any(each.field in _REDUCING for each in numerics)
    limit = max(_NUMERICS_FACTOR * floor, _REDUCED_NATS if reduced else 0.0)
    if numerics and max(max(each.differences) for each in evidence.turns) <= limit:
        named = ", ".join(f"{each.field} was {each.recorded}" for each in numerics)
        little = f"{differ} by little: numerics changed ({named}); try `tokentape calibrate`"
        return cause(CauseKind.NUMERICS, little)
    idle = _idle_intervention(evidence, turn, step_in_round, floor)
    if idle:
        agree = f"{differ}, and agree without {interventions_text(idle)}: it did not act there"
        return cause(CauseKind.INTERVENTION, agree)
    unknown = unknown_adapters(evidence)
    if unknown:
        return cause(CauseKind.ADAPTERS, f"{differ}: {unknown}")
    return cause(CauseKind.PROMPT, f"{differ}, {_prompt_text(evidence, turn)}")


def _prompt_text(evidence: Evidence, turn: CheckedTurn) -> str:
    hint = ""
    if not evidence.differs("tokenizer"):
        hint = undecodable_text(evidence.run, evidence.lm.tokenizer)
    is_first = turn.turn.number == evidence.turns[0].turn.number
    ids = "of its prompt" if is_first else "added before it"
    acting = evidence.interventions.of_turn(turn.turn)
    return (
        f"and the weights are those recorded: prompt changed, in the ids {ids}"
        + (f" ({hint})" if hint else "")
        + (f", or {interventions_text(acting)} is not what acted" if acting else "")
    )


def _idle_intervention(
    evidence: Evidence, checked: CheckedTurn, step: int, floor: float
) -> list[ActiveRange]:
    """Return the ranges of the one intervention without which the first drifting token agrees."""
    turn, ranges = checked.turn, evidence.interventions.of_turn(checked.turn)
    row = len(turn.prompt_ids) + step - 1
    ids, token = (*turn.prompt_ids, *turn.reply_ids), turn.tokens[step]
    # Each trial costs a forward, and no intervention is likelier than another: try the first few.
    for name in list(dict.fromkeys(each.name for each in ranges))[:_INTERVENTIONS_TRIED]:
        others = [each for each in ranges if each.name != name]
        with evidence.interventions.applied(evidence.lm.model, others):
            (logits,) = teacher_forced_logits(evidence.lm.model, ids, [row])
        logprob = torch.log_softmax(logits[0], dim=-1)[token.token_id].item()
        if abs(logprob - token.logprob) <= floor:
            return [each for each in ranges if each.name == name]
    return []


def interventions_text(ranges: Sequence[ActiveRange]) -> str:
    """Return the name, kind and layers of each intervention, once."""
    named = (
        f"intervention {each.name!r} ({each.applied.kind} in {', '.join(each.applied.layers)})"
        for each in ranges
    )
    return ", ".join(dict.fromkeys(named))


def _is_tampered(divergence: Divergence, step: int) -> bool:
    """Return whether the row of logits agrees and only the token is not its pick."""
    if not divergence.kind.is_mismatch or divergence.logprob_difference < _TAMPERED_NATS:
        return False
    replayed = {each.token_id: each.logprob for each in divergence.replayed_top}
    pairs = [
        (each.logprob, replayed[each.token_id])
        for each in divergence.recorded_top
        if each.token_id in replayed
    ]
    if not divergence.recorded_top:
        return step > 0
    return bool(pairs) and all(abs(a - b) <= _TOP_NATS for a, b in pairs)
