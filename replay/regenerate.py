"""Regenerate turns with Hugging Face `generate`, from the recorded ids, seed and settings."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import MaxLengthCriteria, StoppingCriteriaList

from tokentape.generation import LoadedModel, hf
from tokentape.generation.cache import common_prefix_length
from tokentape.generation.engine.sampling import generator_sha256
from tokentape.generation.tools.interface import ToolInterface
from tokentape.recorder import Recording
from tokentape.recorder.clock import elapsed_us
from tokentape.recorder.events import StopReason
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.check_turns import CheckedTurn
from tokentape.replay.checking.interventions import Interventions
from tokentape.replay.checking.noise_floor import DEFAULT_FLOOR, NO_DRIFT, plausible, predict_flips
from tokentape.replay.checking.token_checker import TokenChecker
from tokentape.replay.errors import ReplayError
from tokentape.replay.session import Differing, Replay
from tokentape.replay.verdict import Cause, Floor, Report, TurnVerdict, Verdict, worst

TurnDone = Callable[[TurnVerdict, int], None]
"""Called with each turn's verdict and the microseconds that it took."""


def regenerate(
    recording: Recording,
    lm: LoadedModel,
    *,
    turns: Sequence[int] | None = None,
    floor: Floor | None = None,
    ignore: Collection[str] = (),
    tools: ToolInterface | None = None,
    interventions: bool = True,
    progress: TurnDone | None = None,
    differing: Differing | None = None,
) -> Report:
    """Run `model.generate` on each turn's whole prompt, without a cache, and compare the tokens.

    A turn is compared up to its first difference: after it the two histories are not the same.
    torch's global random state is put back. `floor`, `ignore`, `tools`, `interventions` and what is
    raised are as those of `verify`; without a floor only tokens are compared.
    """
    replay = Replay.begin(
        "regenerate",
        recording,
        lm,
        turns=turns,
        floor=floor,
        ignore=ignore,
        interventions=interventions,
        differing=differing,
    )
    judging_floor = replay.floor or NO_DRIFT
    verdicts: list[TurnVerdict] = []
    judged: list[CheckedTurn] = []
    for turn in replay.turns:
        turn_began = time.perf_counter()
        turn_verdict, judged_turn = _regenerate_turn(turn, lm, judging_floor, replay.interventions)
        verdicts.append(turn_verdict)
        judged.append(judged_turn)
        if progress is not None:
            progress(turn_verdict, elapsed_us(turn_began))
    gaps = [token.top_gap for turn in replay.turns for token in turn.tokens]
    predicted = predict_flips(gaps, judging_floor)
    altered = replay.altered()
    verdict, reason = _conclude(replay, verdicts, altered, predicted)
    return replay.report(
        judged,
        verdicts,
        altered,
        verdict=verdict,
        reason=reason,
        explain=not verdict.passes,
        predicted_flips=predicted,
        tools=tools,
    )


def _conclude(
    replay: Replay, turns: Sequence[TurnVerdict], altered: Sequence[Cause], predicted: float
) -> tuple[Verdict, str]:
    if replay.forbidden:
        return Verdict.INCOMPARABLE, replay.forbidden
    verdict = worst([turn.verdict for turn in turns])
    if altered and worst([verdict, Verdict.DIVERGED]) is not verdict:
        return Verdict.DIVERGED, altered[0].sentence
    first = next(turn for turn in turns if turn.verdict is verdict)
    if verdict is Verdict.EXACT:
        return verdict, "the same tokens and the same end state of the random generator"
    if verdict is Verdict.NEAR_TIE:
        flips = sum(turn.near_ties for turn in turns)
        if not plausible(flips, predicted):
            return Verdict.DIVERGED, f"{flips} near ties: too many for noise"
        return verdict, f"turn {first.turn}: another token within the noise, compared up to there"
    if verdict is Verdict.DRIFTED:
        return verdict, f"turn {first.turn}: the same tokens with other log-probabilities"
    if first.generator_matches is False:
        return verdict, f"turn {first.turn}: the seed does not lead to the recorded end state"
    return verdict, f"turn {first.turn}: `generate` says something else"


def _regenerate_turn(
    turn: Turn, lm: LoadedModel, floor: Floor, interventions: Interventions
) -> tuple[TurnVerdict, CheckedTurn]:
    with interventions.acting(lm.model, interventions.of_turn(turn)):
        replayed_ids, logits, end_state = _generate(turn, lm)
    # The clock may have stopped the turn, as a kill does: then it need only be a beginning.
    whole = turn.finished is not None and "max_time" not in turn.started.unreplayable
    step = _first_difference(turn.reply_ids, replayed_ids, whole=whole)
    compared = len(turn.tokens) if step is None else step
    judged = _judge(turn, lm, floor, logits[: compared + 1])
    place = None if step is None else turn.first_step + step
    divergence = next((each for each in judged.divergences if each.step == place), None)
    verdict = Verdict.EXACT
    if step is not None:
        near = divergence is not None and divergence.kind == "near_tie"
        verdict = Verdict.NEAR_TIE if near else Verdict.DIVERGED
        if divergence is None:
            judged.stop_matches = False
    elif whole and turn.finished is not None and end_state is not None:
        judged.generator_matches = end_state == turn.finished.generator_sha256
        verdict = Verdict.EXACT if judged.generator_matches else Verdict.DIVERGED
    differences = judged.differences[:compared]
    if max(differences, default=0.0) > floor.logprob_floor:
        verdict = worst([verdict, Verdict.DRIFTED])
    return (
        TurnVerdict(
            turn=turn.number,
            verdict=verdict,
            tokens=compared,
            sampled=turn.started.seed is not None,
            mismatches=int(verdict is Verdict.DIVERGED and step is not None),
            near_ties=int(verdict is Verdict.NEAR_TIE),
            margin_max=(divergence.margin or 0.0) if divergence else 0.0,
            logprob_difference_max=max(differences, default=0.0),
            logprob_difference_mean=sum(differences) / max(len(differences), 1),
            processed_difference_max=max(
                (each.processed_difference or 0.0 for each in judged.tokens[:compared]),
                default=0.0,
            ),
            generator_matches=judged.generator_matches,
            logprob_differences=tuple(differences),
            margins=tuple(each.margin for each in judged.tokens[:compared]),
        ),
        judged,
    )


def _judge(
    turn: Turn, lm: LoadedModel, floor: Floor, logits: Sequence[torch.Tensor]
) -> CheckedTurn:
    """The tokens up to the first difference, on the logits of `generate` itself."""
    judge = TokenChecker(turn, lm, floor)
    judged = CheckedTurn(turn)
    steps = min(len(logits), len(turn.tokens))
    while len(judged.tokens) < steps:
        begun = len(judged.tokens)
        rows = torch.cat(tuple(logits[begun : min(begun + judge.due, steps)]))
        judged.add(judge, rows, lm)
    return judged


def _generate(
    turn: Turn, lm: LoadedModel
) -> tuple[tuple[int, ...], tuple[torch.Tensor, ...], str | None]:
    """The ids that `generate` says, the raw logits of each step, and the generator's end state."""
    model: Any = lm.model
    prompt = torch.tensor([turn.prompt_ids], dtype=torch.long, device=model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    end_state: str | None = None
    with torch.random.fork_rng(devices=devices), _no_defaults(model):
        # Proves settings and seed before they meet the model: a recording may come from anybody.
        TokenChecker(turn, lm, DEFAULT_FLOOR)
        if turn.started.seed is not None:
            torch.manual_seed(turn.started.seed)
        try:
            output = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                tokenizer=lm.tokenizer,
                stopping_criteria=_pause(turn),
                **_settings(turn),
            )
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ReplayError(f"`generate` refuses turn {turn.number}: {first_line}") from None
        if turn.started.seed is not None:
            end_state = generator_sha256(_default_generator(model.device))
    ids = output.sequences[0, prompt.shape[1] :].tolist()
    return tuple(ids), output.logits, end_state


def _pause(turn: Turn) -> StoppingCriteriaList:
    """Where the turn paused for a tool that the model called: `generate` knows no such pause."""
    if turn.finished is None or turn.finished.stop_reason != StopReason.TOOL_CALL:
        return StoppingCriteriaList()
    tokens = len(turn.prompt_ids) + len(turn.tokens)
    return StoppingCriteriaList([MaxLengthCriteria(max_length=tokens)])


def _settings(turn: Turn) -> dict[str, Any]:
    """The recorded settings, without what decides when and how, not what, is generated."""
    config = hf.recorded_config(turn.started.sampling)
    return {
        **{
            name: getattr(config, name)
            for name in turn.started.sampling
            if name not in ("max_time", "prefill_chunk_size")
        },
        "return_dict_in_generate": True,
        "output_logits": True,
    }


@contextmanager
def _no_defaults(model: Any) -> Iterator[None]:
    """Only recorded settings count: what the model's own config says today is set aside."""
    before = model.generation_config
    model.generation_config = hf.recorded_config({})
    try:
        yield
    finally:
        model.generation_config = before


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def _first_difference(
    recorded: Sequence[int], replayed: Sequence[int], *, whole: bool
) -> int | None:
    """The first step at which they differ; unless `whole`, the recorded may be a beginning."""
    same = common_prefix_length(recorded, replayed)
    if same == len(recorded) and (same == len(replayed) or not whole):
        return None
    return same
