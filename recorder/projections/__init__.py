"""Projections: what the events of a run add up to. Each is rebuilt from events alone."""

from tokentape.recorder.projections.active_interventions import (
    ActiveInterventions,
    ActiveRange,
    RequestedInterventions,
)
from tokentape.recorder.projections.conversation import Message, iterate_messages
from tokentape.recorder.projections.inside_model import InsideModel
from tokentape.recorder.projections.prompt_work import PromptWork, computed_of_system
from tokentape.recorder.projections.summary import RunSummary, summarise, summarise_all
from tokentape.recorder.projections.turn import Turn
from tokentape.recorder.projections.turns import (
    iterate_joined,
    iterate_turns,
    join_continued,
    join_rounds,
)

__all__ = (
    "ActiveInterventions",
    "ActiveRange",
    "InsideModel",
    "Message",
    "PromptWork",
    "RequestedInterventions",
    "RunSummary",
    "Turn",
    "computed_of_system",
    "iterate_joined",
    "iterate_messages",
    "iterate_turns",
    "join_continued",
    "join_rounds",
    "summarise",
    "summarise_all",
)
