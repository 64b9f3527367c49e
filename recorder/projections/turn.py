"""A turn of a conversation, or one round of it."""

from dataclasses import dataclass, field

from tokentape.recorder.events import (
    CacheDecided,
    HistoryPruned,
    MessageAdded,
    PrefillCompleted,
    TokenSampled,
    TurnFinished,
    TurnStarted,
)
from tokentape.recorder.projections.active_interventions import ActiveInterventions, ActiveRange
from tokentape.recorder.projections.inside_model import InsideModel
from tokentape.recorder.short_forms import counted, quoted, short_repr


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Turn:
    """A turn, or one round of a turn in which the model called tools, with all ids and texts."""

    started: TurnStarted
    messages: tuple[MessageAdded, ...]
    """The messages that were added since the round before."""
    prompt_ids: tuple[int, ...]
    """The whole prompt."""
    prompt_text: str
    tokens: tuple[TokenSampled, ...]
    cache: CacheDecided | None
    """The first cache decision; None if the round was cut off before it."""
    prefill: PrefillCompleted | None
    finished: TurnFinished | None
    """None if the run was cut off in this round; then `tokens` are those up to there."""
    pruned: HistoryPruned | None = None
    """The pruning of the history before the round."""
    active: ActiveInterventions = field(default_factory=ActiveInterventions)
    """The interventions on the stream at the end of the round."""
    forced_steps: tuple[int, ...] = ()
    """The steps of the turn whose tokens the experimenter chose."""
    continued_by: TurnStarted | None = None
    """The beginning of the last fork that continued the round; see `join_continued`."""
    continued_text: str = ""
    """The text of the tokens before that."""
    rounds: tuple["Turn", ...] = ()
    """The rounds of a turn that was joined of several; else empty."""

    def __repr__(self) -> str:
        prompt = f"{self.number}: prompt of {len(self.prompt_ids):,} tokens,"
        stop = "cut off," if self.finished is None else f"{self.finished.stop_reason},"
        text = "" if self.reply_text is None else quoted(self.reply_text)
        return short_repr(self, prompt, f"{counted(len(self.tokens), 'token')},", stop, text)

    @property
    def interventions(self) -> tuple[ActiveRange, ...]:
        """The interventions on its prompt and reply, in the order in which they act."""
        return self.active.over(self.stream_tokens)

    @property
    def stream_tokens(self) -> int:
        """The tokens of prompt and reply; in a joined turn, of the last round."""
        last = self.rounds[-1] if self.rounds else self
        return len(last.prompt_ids) + len(last.tokens)

    @property
    def inside_model(self) -> InsideModel:
        """The changes inside the model: interventions, adapters, hooks, own processors."""
        return InsideModel.of(
            self.started,
            self.cache,
            interventions=self.interventions,
            message_ids=sum(len(each.ids) for each in (self.rounds or (self,))[0].messages),
            stream_tokens=self.stream_tokens,
        )

    @property
    def number(self) -> int:
        """The number of the turn, from 1."""
        return self.started.turn

    @property
    def first_step(self) -> int:
        """How many tokens of the turn were sampled in earlier rounds."""
        return self.started.first_step

    @property
    def continued_tokens(self) -> int:
        """How many ids at the end of the prompt begin this reply; see `TurnStarted`."""
        return self.started.continued_tokens

    @property
    def own_prompt_tokens(self) -> int:
        """The length of the prompt without the beginning of the reply."""
        return len(self.prompt_ids) - self.continued_tokens

    @property
    def forced_tokens(self) -> int:
        """How many of the round's first tokens the experimenter chose."""
        return min(len(self.started.forced_ids), len(self.tokens))

    @property
    def reply_ids(self) -> tuple[int, ...]:
        """The ids of the sampled tokens."""
        return tuple(token.token_id for token in self.tokens)

    @property
    def reply_text(self) -> str | None:
        """The text of the reply; None if the round did not finish."""
        return None if self.finished is None else self.finished.text
