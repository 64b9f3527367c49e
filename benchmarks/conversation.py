"""A conversation behind a long system prompt, carried in three ways, turn by turn in one run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import tokentape as tt
from benchmarks.contenders import SAMPLERS, Answer, HuggingFace, Tokentape, recording_file
from benchmarks.forwards import Forwards
from benchmarks.texts import question_ids, system_prompt

SYSTEM_TOKENS, TURNS, QUESTION_TOKENS, NEW_TOKENS = 6_287, 20, 55, 20
FRESH_TURNS = 3
_SETTINGS = SAMPLERS["greedy"]


@dataclass(slots=True)
class ForwardVariant:
    """What each turn took; what was computed before turn 1 belongs to turn 1."""

    name: str
    prefill_tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    token_ids: list[list[int]] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        self.prefill_tokens.append(answer.prefill_tokens)
        self.seconds.append(answer.seconds)
        self.token_ids.append(answer.token_ids)

    @property
    def later_seconds(self) -> float:
        """The median turn after the first."""
        return median(self.seconds[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationFigures:
    """`fresh` has timed only its first turns; `prompt_tokens` are those of every turn."""

    ours: ForwardVariant
    carried: ForwardVariant
    fresh: ForwardVariant
    prompt_tokens: tuple[int, ...]

    @property
    def same_tokens(self) -> bool:
        """Of ours and of the cache that is carried by hand."""
        return self.ours.token_ids == self.carried.token_ids

    @property
    def same_tokens_as_fresh(self) -> bool:
        """In the turns that were timed."""
        return self.fresh.token_ids == self.ours.token_ids[: len(self.fresh.token_ids)]


def measure_conversation(
    lm: tt.LoadedModel,
    folder: Path,
    *,
    system_tokens: int = SYSTEM_TOKENS,
    turns: int = TURNS,
    question_tokens: int = QUESTION_TOKENS,
    new_tokens: int = NEW_TOKENS,
    fresh_turns: int = FRESH_TURNS,
    tick: Callable[[], None] = lambda: None,
) -> ConversationFigures:
    """The order of the ways changes from turn to turn; our replies are what all go on from."""
    with (
        Forwards(lm.model) as forwards,
        recording_file(folder / "conversation.db") as store,
    ):
        ours = Tokentape(lm, forwards, store)
        talk = _Talk(ours, HuggingFace(lm, forwards), new_tokens)
        before = ours.cache_system_prompt(system_prompt(lm.tokenizer, system_tokens))
        ids = list(ours.generator.conversation.ids)
        lengths = []
        for turn in range(1, turns + 1):
            ids += question_ids(lm.tokenizer, turn, question_tokens)
            lengths.append(len(ids))
            ids += talk.turn(ids, turn, fresh=turn <= fresh_turns)
            tick()
    talk.ours.prefill_tokens[0] += before[0]
    talk.ours.seconds[0] += before[1]
    return ConversationFigures(
        ours=talk.ours, carried=talk.carried, fresh=talk.fresh, prompt_tokens=tuple(lengths)
    )


class _Talk:
    def __init__(self, ours: Tokentape, theirs: HuggingFace, new_tokens: int) -> None:
        self._ours = ours
        self._theirs = theirs
        self._new_tokens = new_tokens
        self.ours = ForwardVariant("tokentape, recording")
        self.carried = ForwardVariant("generate, past_key_values carried by hand")
        self.fresh = ForwardVariant("generate, nothing carried")

    def turn(self, ids: Sequence[int], turn: int, *, fresh: bool) -> list[int]:
        """Ask all of them; our reply."""
        ways: list[Callable[[Sequence[int]], None]] = [self._ask_ours, self._ask_carried]
        for ask in ways if turn % 2 else reversed(ways):
            ask(ids)
        if fresh:
            self.fresh.add(self._theirs.ask(ids, self._new_tokens, **_SETTINGS))
        return self.ours.token_ids[-1]

    def _ask_ours(self, ids: Sequence[int]) -> None:
        self.ours.add(self._ours.ask(ids, self._new_tokens, **_SETTINGS))

    def _ask_carried(self, ids: Sequence[int]) -> None:
        self.carried.add(self._theirs.ask(ids, self._new_tokens, carried=True, **_SETTINGS))
