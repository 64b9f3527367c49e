"""A replay under way: what is asked of a recording, and the report of what came of it."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from tokentape.generation import LoadedModel
from tokentape.generation.checks import check_not_training
from tokentape.generation.tools.interface import ToolInterface
from tokentape.recorder import Recording
from tokentape.recorder.clock import elapsed_us
from tokentape.recorder.projections import Turn
from tokentape.replay.causes.causes import Evidence, find_causes
from tokentape.replay.checking.check_turns import CheckedTurn
from tokentape.replay.checking.contradictions import find_alterations
from tokentape.replay.checking.fingerprint_check import check_fingerprints, repro_line
from tokentape.replay.checking.interventions import Interventions
from tokentape.replay.checking.noise_floor import floor_of
from tokentape.replay.checking.tool_results import rerun_tools, with_drifts
from tokentape.replay.checking.turns import OwnProcessors, check_ids_known, choose_turns
from tokentape.replay.verdict import (
    Cause,
    FieldDifference,
    Floor,
    Report,
    TurnVerdict,
    Verdict,
    of_whole_turns,
)

Differing = Callable[[Sequence[FieldDifference]], None]
"""Called with the fingerprints that differ, before the model runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What both ways of replaying begin with: the turns, what differs, and the floor, if known."""

    kind: str
    recording: Recording
    lm: LoadedModel
    turns: list[Turn]
    differences: tuple[FieldDifference, ...]
    floor: Floor | None
    interventions: Interventions
    began: float

    @classmethod
    def begin(
        cls,
        kind: str,
        recording: Recording,
        lm: LoadedModel,
        *,
        turns: Sequence[int] | None,
        floor: Floor | None,
        ignore: Collection[str],
        interventions: bool,
        processors: OwnProcessors | None = None,
        differing: Differing | None = None,
    ) -> "Replay":
        """Everything that can be refused or told before the model runs. Raises as `verify` does."""
        began = time.perf_counter()
        check_not_training(lm.model)
        chosen = choose_turns(recording, turns, processors)
        sampled = any(turn.started.seed is not None for turn in chosen)
        differences = check_fingerprints(recording, lm, sampled=sampled, ignore=ignore)
        if differing is not None:
            differing(differences)
        known_floor = floor_of(lm, recording.started().dtype, floor)
        check_ids_known(chosen, lm)
        return cls(
            kind=kind,
            recording=recording,
            lm=lm,
            turns=chosen,
            differences=differences,
            floor=known_floor,
            interventions=Interventions.of(recording, chosen, act=interventions),
            began=began,
        )

    def altered(self) -> list[Cause]:
        """What contradicts itself; the tokenizer reads texts where it is the recorded one."""
        same_tokenizer = not any(each.field == "tokenizer" for each in self.differences)
        tokenizer = self.lm.tokenizer if same_tokenizer else None
        return find_alterations(self.recording, self.turns, tokenizer)

    @property
    def forbidden(self) -> str:
        """Why the two sides cannot be compared, by fingerprints; empty where they can."""
        fields = [each.field for each in self.differences if each.forbids and not each.ignored]
        return f"not what was recorded: {', '.join(fields)}" if fields else ""

    def report(
        self,
        judged: Sequence[CheckedTurn],
        verdicts: Sequence[TurnVerdict],
        altered: Sequence[Cause],
        *,
        verdict: Verdict,
        reason: str,
        explain: bool,
        predicted_flips: float,
        tools: ToolInterface | None,
    ) -> Report:
        """The whole of it; causes are looked for where there is something to `explain`.

        Without a `reason` the first cause is it. `tools` are run again now.
        """
        causes: tuple[Cause, ...] = ()
        if explain or self.differences:
            evidence = Evidence(
                recording=self.recording,
                lm=self.lm,
                turns=judged,
                differences=self.differences,
                altered=altered,
                floor=self.floor,
                interventions=self.interventions,
            )
            causes = find_causes(evidence)
        divergences = tuple(each for turn in judged for each in turn.divergences)
        shown = divergences[0].turn if divergences else self.turns[0].number
        finished = [turn.finished for turn in self.turns if turn.finished]
        report = Report(
            replay=self.kind,
            run_id=self.recording.run_id,
            name=self.recording.started().name,
            model=self.lm.name,
            verdict=verdict,
            reason=reason or (causes[0].sentence if causes else "the numbers do not agree"),
            causes=causes,
            turns=tuple(of_whole_turns(verdicts)),
            divergences=divergences,
            differences=self.differences,
            altered=tuple(each.sentence for each in altered),
            floor=self.floor,
            predicted_flips=predicted_flips,
            duration_us=elapsed_us(self.began),
            generation_us=sum(each.duration_us for each in finished),
            repro=repro_line(
                self.kind, self.recording, self.lm, shown, interventions=self.interventions.act
            ),
        )
        if tools is None:
            return report
        numbers = [turn.number for turn in self.turns]
        return with_drifts(report, rerun_tools(self.recording, tools, turns=numbers))
