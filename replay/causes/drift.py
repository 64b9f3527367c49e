"""The cause of log-probabilities that differ by more than the floor."""

import torch

from tokentape.recorder.projections import ActiveRange
from tokentape.replay.causes.evidence import Evidence
from tokentape.replay.causes.intervention_text import interventions_text
from tokentape.replay.causes.prefixes import prefix_sentence
from tokentape.replay.causes.prompts import contradicted_ids
from tokentape.replay.causes.unknown import changed_unseen, unknown_sentence
from tokentape.replay.checking.check_turns import CheckedTurn
from tokentape.replay.checking.model_check import HOOKS, NOTED_CONFIG
from tokentape.replay.checking.teacher_forcing import teacher_forced_logits
from tokentape.replay.results.report import Cause, Divergence, Floor
from tokentape.replay.results.verdict import CauseKind

# Kernels, libraries and processors cause differences of at most this many floors.
_NUMERICS_FACTOR = 30.0
# Float32 computed in TF32 or bfloat16 differs by more: TF32 by 0.033 nats at most (docs/limits.md).
_REDUCED_NATS = 0.1
# Float32 forwarded in other chunks differs by 3e-5 nats at most (reference: docs/replay.md).
_ROUNDING_NATS = 1e-3
_REDUCING = (
    "DNNL_DEFAULT_FPMATH_MODE",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "cudnn_tf32",
    "float32_matmul",
    "fp16_accumulation",
    "mkldnn_conv",
)
_NOT_NUMERIC = ("generation_config", HOOKS, "platform", "python")
"""Fields that differ without an effect on the numbers."""
# Of a tampered token the log-probability differs by more than the first number, or the recorded one
# is that of the pick within the floor. Those of the top tokens, recorded in half precision, differ
# by less than the second.
_TAMPERED_NATS = 0.05
_TOP_NATS = 0.02
_INTERVENTIONS_TRIED = 4
_OF_THE_MODEL = (
    CauseKind.WEIGHTS,
    CauseKind.ADAPTERS,
    CauseKind.CONFIG,
    CauseKind.MODEL_CODE,
    CauseKind.DTYPE,
)
"""Fingerprints that change log-probabilities, the one that explains most first."""


def cause_of_drift(evidence: Evidence, turn: CheckedTurn, noise: Floor) -> Cause:
    """Return the cause of the first drift in a turn that drifts."""
    floor = noise.logprob_floor
    step_in_round = turn.drifting_steps(noise)[0]
    number, step = turn.turn.number, turn.turn.first_step + step_in_round

    def cause(name: CauseKind, sentence: str) -> Cause:
        return Cause(name=name, sentence=sentence, turn=number, step=step)

    place = f"turn {number}, token {step}"
    differ = f"{place}: from this token on, log-probabilities differ"
    left_out = () if evidence.interventions.enabled else turn.turn.interventions
    if left_out:
        without = f"{differ}: replayed without {interventions_text(left_out)}"
        return cause(CauseKind.INTERVENTION, without)
    known = _of_the_model(evidence)
    if known is not None:
        kind, sentence = known
        return cause(kind, f"{differ}: {sentence}")
    divergence = next((each for each in turn.divergences if each.step == step), None)
    if divergence is not None and _is_tampered(divergence, floor):
        tampered = f"{place}: the model did not produce this token: the token was altered"
        return cause(CauseKind.TOKEN, tampered)
    numerics = _numerics_text(evidence, floor)
    if numerics:
        little = f"{differ} by little: numerics changed ({numerics}); try `tokentape calibrate`"
        return cause(CauseKind.NUMERICS, little)
    idle = _idle_intervention(evidence, turn, step_in_round, floor)
    if idle:
        agree = f"{differ}, and agree without {interventions_text(idle)}: it did not act there"
        return cause(CauseKind.INTERVENTION, agree)
    contradicted = contradicted_ids(evidence.run, turn.turn, evidence.lm.tokenizer)
    if contradicted and not evidence.differs("tokenizer"):
        return cause(CauseKind.PROMPT, f"{differ}: the prompt changed: {contradicted}")
    changed = changed_unseen(evidence)
    if changed:
        return cause(CauseKind.WEIGHTS, f"{differ}: {changed}")
    schedule = next((each for each in evidence.known if each.name is CauseKind.SCHEDULE), None)
    if schedule is not None and not _exceeds_rounding(evidence):
        return schedule
    prefix = prefix_sentence(evidence, floor)
    if prefix:
        return cause(CauseKind.PREFIX, f"{differ}: {prefix}")
    return cause(CauseKind.UNKNOWN, f"{differ}: {unknown_sentence(evidence, turn, floor)}")


def _of_the_model(evidence: Evidence) -> tuple[CauseKind, str] | None:
    """Return the fingerprint of the model that differs, the one that explains most first."""
    for kind in _OF_THE_MODEL:
        if evidence.differs(kind):
            return kind, f"{kind} changed"
    hooks = next((each for each in evidence.differences if each.field == HOOKS), None)
    if hooks is not None:
        return CauseKind.MODEL_CODE, f"other forward hooks act on the model: {hooks.detail}"
    return None


def _exceeds_rounding(evidence: Evidence) -> bool:
    """Return whether differences are too large for the same forward in other chunks."""
    largest = max(max(each.differences, default=0.0) for each in evidence.turns)
    return evidence.run.started.dtype == "float32" and largest > _ROUNDING_NATS


def _numerics_text(evidence: Evidence, floor: float) -> str:
    """Return the kernels and libraries that differ if they explain every difference, else ""."""
    numerics = [
        each
        for each in evidence.differences
        if not each.forbids
        and each.field not in _NOT_NUMERIC
        and not each.field.startswith(NOTED_CONFIG)
    ]
    reduced = any(each.field in _REDUCING for each in numerics)
    limit = max(_NUMERICS_FACTOR * floor, _REDUCED_NATS if reduced else 0.0)
    if not numerics or max(max(each.differences) for each in evidence.turns) > limit:
        return ""
    return ", ".join(f"{each.field} was {each.recorded}" for each in numerics)


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


def _is_tampered(divergence: Divergence, floor: float) -> bool:
    """Return whether the row of logits agrees and only the token is not its pick.

    Then the recorded number is that of the pick, and the numbers of the top tokens agree.
    """
    if not divergence.kind.is_mismatch:
        return False
    of_pick = abs(divergence.recorded.logprob - divergence.replayed.logprob)
    own = divergence.logprob_difference
    if own < _TAMPERED_NATS and not of_pick <= floor < own:
        return False
    top = divergence.recorded_top
    replayed = {each.token_id: each.logprob for each in divergence.replayed_top}
    pairs = [(each.logprob, replayed[each.token_id]) for each in top if each.token_id in replayed]
    if top and not pairs:
        return False
    tolerance = max(floor, _TOP_NATS)
    return of_pick <= tolerance and all(abs(a - b) <= tolerance for a, b in pairs)
