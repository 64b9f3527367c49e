"""A fork within a reply, which shares the first tokens of it with the parent."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from tokentape.generation.engine.turn import RoundPlan, TurnSettings
from tokentape.generation.errors import PromptError
from tokentape.generation.history.chosen_tokens import complete_text
from tokentape.generation.history.prompt import Prompt
from tokentape.recorder import Envelope
from tokentape.recorder.events import (
    InterventionApplied,
    InterventionRemoved,
    TokenSampled,
    TurnStarted,
)
from tokentape.recorder.plain_values import plain_whole
from tokentape.recorder.projections import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFork:
    """How a fork continues a reply after the tokens that it shares."""

    prompt: Prompt
    """The prompt with the shared tokens, relative to the stream of the parent."""
    forced_ids: tuple[int, ...]
    """The token that the experimenter chose, if any."""
    continued_tokens: int
    continued_text: str
    settings: TurnSettings
    """How the tokens after the shared ones are chosen."""

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        whole: Turn,
        last: Turn,
        *,
        settings: TurnSettings,
        forced_ids: tuple[int, ...],
    ) -> "TokenFork":
        """Return the fork of a round that was cut off.

        `last` is the parent's last record of it; `whole` has the tokens of earlier parents, too.
        """
        text = complete_text(tokenizer, last.prompt_ids, last.reply_ids)
        prompt_text = last.prompt_text + text
        return cls(
            prompt=Prompt(
                ids=(*last.prompt_ids, *last.reply_ids),
                text=prompt_text,
                messages=(),
                kept_tokens=len(last.prompt_ids),
                kept_chars=len(last.prompt_text),
                added_ids=last.reply_ids,
                added_text=text,
                history_reason="",
            ),
            forced_ids=forced_ids,
            continued_tokens=len(whole.tokens),
            continued_text=prompt_text[len(whole.prompt_text) :],
            settings=settings,
        )

    def planned(self, plan: RoundPlan) -> RoundPlan:
        """Return the plan of the round in the fork."""
        return replace(
            plan,
            forced_ids=self.forced_ids,
            continued_tokens=self.continued_tokens,
            continued_text=self.continued_text,
        )


def check_at_token(at_token: int | None, token: str | int | None) -> int | None:
    """Return the token to fork at. Raise PromptError if it is no count, or missing for `token`."""
    if at_token is None:
        if token is not None:
            raise PromptError("token needs at_token: which token of the reply it replaces")
        return None
    whole = plain_whole(at_token)
    if isinstance(whole, bool) or not isinstance(whole, int) or whole < 0:
        raise PromptError(f"at_token counts the tokens of the reply from zero: not {at_token!r}")
    return whole


def events_before_token(envelopes: Sequence[Envelope], turn: int, token: int) -> list[Envelope]:
    """Return the events that a fork at a token shares.

    The last one is the token before, or what an intervention does from it on. If the token is the
    first of its round, the prompt of the round is shared, too. Raise PromptError if the turn has no
    such token.
    """
    places = {
        each.event.step: place
        for place, each in enumerate(envelopes)
        if isinstance(each.event, TokenSampled) and each.event.turn == turn
    }
    if not places:
        raise PromptError(f"there is no turn {turn} with tokens to fork within")
    if token not in places:
        raise PromptError(
            f"turn {turn} has no token {token}: its reply has the tokens 0 to {max(places)}"
        )
    began, started = next(
        (place, each.event)
        for place, each in reversed(list(enumerate(envelopes[: places[token]])))
        if isinstance(each.event, TurnStarted)
    )
    before = places.get(token - 1, -1)
    if before < began and not started.continued_tokens:
        return list(envelopes[: places[token]])
    end = before + 1
    while isinstance(envelopes[end].event, InterventionApplied | InterventionRemoved):
        end += 1
    return list(envelopes[:end])
