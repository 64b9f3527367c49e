"""What resuming a run would do, said before it does it."""

from dataclasses import dataclass

import torch

from tokentape.generation import fingerprints
from tokentape.generation.investigation.resume_point import ResumePoint
from tokentape.recorder.events import RunResumed, RunStarted


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeOutlook:
    """Where a resumed run continues, and what differs here from its last process."""

    run_id: str
    finished_turns: int
    cut_off_turn: int | None
    """The turn that was in progress; None between turns."""
    kept_tokens: int
    """Recorded tokens of that turn."""
    is_finished: bool
    """Whether that turn is finished; False if own processors or criteria of its caller, which no
    event restores, made it."""
    kept_results: int
    """Recorded results of tools that no prompt has shown: these tools do not run again."""
    differences: tuple[str, ...]
    """What differs of hardware, libraries and flags of torch: `torch 2.13.0, now 2.14.0`."""

    @classmethod
    def of(cls, point: ResumePoint) -> "ResumeOutlook":
        """Return what resuming at the point would do; no model is needed."""
        rounds, opened = point.turns, point.open_turn
        cut_off = rounds[-1] if rounds and rounds[-1].finished is None else None
        finished = {each.number for each in rounds if each.finished is not None}
        if cut_off is not None:
            finished.discard(cut_off.number)
        return cls(
            run_id=point.recording.run_id,
            finished_turns=len(finished),
            cut_off_turn=None if cut_off is None else cut_off.number,
            kept_tokens=0 if cut_off is None else cut_off.first_step + len(cut_off.tokens),
            is_finished=opened is not None,
            kept_results=len(point.unread_results),
            differences=_differences(point),
        )

    def describe(self) -> str:
        """Return the outlook in one line."""
        count = self.finished_turns
        turns = "1 turn is" if count == 1 else f"{count} turns are"
        parts = [f"run {self.run_id}: {turns} finished"]
        if self.cut_off_turn is not None and self.is_finished:
            parts.append(
                f"turn {self.cut_off_turn} was cut off after {self.kept_tokens} tokens and "
                "continues there"
            )
        elif self.cut_off_turn is not None:
            parts.append(
                f"turn {self.cut_off_turn} was cut off and stays so: its caller's own processors "
                "are not recorded"
            )
        if self.kept_results:
            parts.append(f"{self.kept_results} results of tools are used without running them")
        if self.differences:
            parts.append(f"recorded with {', '.join(self.differences)}")
        return "; ".join(parts)


def _differences(point: ResumePoint) -> tuple[str, ...]:
    last: RunStarted | RunResumed = point.started
    for each in point.envelopes:
        if isinstance(each.event, RunResumed):
            last = each.event
    on_gpu = last.device == "cuda" and torch.cuda.is_available()
    today = fingerprints.environment(torch.device("cuda") if on_gpu else None)
    return tuple(
        f"{name} {before}, now {now}"
        for name, before, now in fingerprints.environment_differences(last.environment, today)
    )
