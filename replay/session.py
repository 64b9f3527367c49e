"""The steps that replays with a model share before and after it runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokentape.generation import LoadedModel, hf
from tokentape.generation.checks import check_not_training
from tokentape.recorder import Recording
from tokentape.recorder.clock import elapsed_us
from tokentape.recorder.paths import name_without_folders
from tokentape.recorder.projections import Turn
from tokentape.replay.causes.causes import find_causes
from tokentape.replay.causes.evidence import Evidence
from tokentape.replay.checking.check_turns import CheckedTurn
from tokentape.replay.checking.fingerprint_check import check_fingerprints, repro_line
from tokentape.replay.checking.interventions import Interventions
from tokentape.replay.checking.noise_floor import floor_of
from tokentape.replay.checking.tool_rerun import rerun_tools, with_drifts
from tokentape.replay.checking.turn_choice import choose_turns
from tokentape.replay.checking.turns import check_ids_known
from tokentape.replay.options import CheckOptions
from tokentape.replay.recorded.contradictions import find_contradictions
from tokentape.replay.recorded.loaded_run import LoadedRun, load_run
from tokentape.replay.results.report import (
    Cause,
    FingerprintDifference,
    Floor,
    Report,
    TurnVerdict,
    merge_rounds,
)
from tokentape.replay.results.row_difference import RowDifference
from tokentape.replay.results.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """The verdict on a whole recording."""

    verdict: Verdict
    reason: str = ""
    """Empty where the first cause is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySession:
    """A replay of a run that passed every check which needs no forward of the model."""

    kind: str
    """`verify`, `retrace` or `regenerate`."""
    run: LoadedRun
    lm: LoadedModel
    options: CheckOptions
    turns: list[Turn]
    """The rounds to replay, in order."""
    differences: tuple[FingerprintDifference, ...]
    floor: Floor | None
    """None where no floor is known for the model and its dtype."""
    interventions: Interventions
    contradictions: list[Cause]
    """Contradictions within the recording."""
    began: float
    """Value of `time.perf_counter` at the start."""

    @classmethod
    def begin(
        cls,
        kind: str,
        recording: Recording | LoadedRun,
        lm: LoadedModel,
        options: CheckOptions,
        *,
        restores: Callable[[FingerprintDifference], bool] = lambda difference: False,
    ) -> "ReplaySession":
        """Read the run and check all that needs no forward. Raise the errors of `verify`.

        Differences that the replay `restores` while it forwards are none.
        """
        began = time.perf_counter()
        check_not_training(lm.model)
        hf.check_release(lm.model)
        run = load_run(recording, options.turns)
        turns = choose_turns(run, options.turns, options.processors)
        sampled = any(turn.started.seed is not None for turn in turns)
        found = check_fingerprints(run, lm, turns, sampled=sampled, ignore=options.ignore)
        differences = tuple(each for each in found if not restores(each))
        if options.on_fingerprint_difference is not None:
            options.on_fingerprint_difference(differences)
        floor = floor_of(lm, run.started.dtype, options.floor)
        check_ids_known(turns, lm)
        # Texts can be decoded only with the recorded tokenizer.
        same_tokenizer = not any(each.field == "tokenizer" for each in differences)
        return cls(
            kind=kind,
            run=run,
            lm=lm,
            options=options,
            turns=turns,
            differences=differences,
            floor=floor,
            interventions=Interventions.load(run.recording, turns, enabled=options.interventions),
            contradictions=find_contradictions(
                run, turns, lm.tokenizer if same_tokenizer else None
            ),
            began=began,
        )

    @property
    def obstacle(self) -> str:
        """Why fingerprints forbid a comparison; empty where they allow it."""
        forbidding = [each for each in self.differences if each.forbids and not each.ignored]
        fields = dict.fromkeys(each.field for each in forbidding)
        return f"not what was recorded: {', '.join(fields)}" if fields else ""

    def report(
        self,
        checked: Sequence[CheckedTurn],
        verdicts: Sequence[TurnVerdict],
        conclusion: Conclusion,
        *,
        explain: bool,
        predicted_flips: float,
        rows: Sequence[RowDifference] = (),
        known_causes: Sequence[Cause] = (),
        fallback: Cause | None = None,
    ) -> Report:
        """Return the report; find causes if there is something to `explain`, and rerun tools.

        The replay may know causes of its own; `fallback` is for numbers without another cause.
        """
        causes: tuple[Cause, ...] = ()
        if explain or self.differences:
            evidence = Evidence(
                run=self.run,
                lm=self.lm,
                turns=checked,
                differences=self.differences,
                contradictions=self.contradictions,
                floor=self.floor,
                interventions=self.interventions,
                known=known_causes,
            )
            causes = find_causes(evidence)
            if not causes and fallback is not None:
                causes = (fallback,)
        divergences = tuple(each for turn in checked for each in turn.divergences)
        shown = divergences[0].turn if divergences else self.turns[0].number
        finished = [turn.finished for turn in self.turns if turn.finished]
        default_reason = causes[0].sentence if causes else "the numbers do not agree"
        report = Report(
            run_status=self.run.status_text,
            replay=self.kind,
            run_id=self.run.run_id,
            name=self.run.started.name,
            model=name_without_folders(self.lm.name),
            verdict=conclusion.verdict,
            reason=conclusion.reason or default_reason,
            causes=causes,
            turns=tuple(merge_rounds(verdicts)),
            divergences=divergences,
            differences=self.differences,
            altered=tuple(each.sentence for each in self.contradictions),
            floor=self.floor,
            predicted_flips=predicted_flips,
            duration_us=elapsed_us(self.began),
            generation_us=sum(each.duration_us for each in finished),
            repro=repro_line(
                self.kind, self.run, self.lm, shown, interventions=self.options.interventions
            ),
            rows=tuple(rows),
        )
        if self.options.tools is None:
            return report
        numbers = [turn.number for turn in self.turns]
        return with_drifts(report, rerun_tools(self.run, self.options.tools, turns=numbers))
