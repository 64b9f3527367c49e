"""Text and JSON of one turn: its whole prompt, with cached and new parts, and its reply."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

from tokentape.recorder import Envelope, Recording
from tokentape.recorder.codec import decode
from tokentape.recorder.escapes import padded, quoted, visible, visible_lines
from tokentape.recorder.events import (
    TokenSampled,
    TokensSpelled,
    ToolCalled,
    ToolReturned,
    TurnStarted,
)
from tokentape.recorder.projections import Turn
from tokentape.recorder.record import RecordFilter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PIECE_COLUMNS = 18
_TOP_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSections:
    """The boundaries within a prompt, in tokens and in characters of its text."""

    new_token: int
    """Index of the first token that this turn added."""
    new_char: int
    """Index of the first character that this turn added."""
    reused_tokens: int
    """Number of tokens that the cache held."""
    cache_token: int
    """The token nearest to `reused_tokens` before which the text can be divided: events give the
    tokens of whole messages only."""
    cache_char: int
    """The character at which `cache_token` begins."""


def prompt_sections(turn: Turn, seams: Iterable[tuple[int, int]]) -> PromptSections:
    """Return the boundaries in a turn's prompt.

    `seams` are numbers of tokens of the prompt, each with the number of characters that they are.
    """
    started = turn.started
    new_token = started.kept_tokens - sum(len(message.ids) for message in turn.messages)
    new_char = started.kept_chars - sum(len(message.text) for message in turn.messages)
    reused = turn.cache.reused_tokens if turn.cache else 0
    known = [(0, 0), (new_token, new_char), *seams]
    nearest = min(known, key=lambda seam: abs(seam[0] - reused))
    return PromptSections(
        new_token=new_token,
        new_char=new_char,
        reused_tokens=reused,
        cache_token=nearest[0],
        cache_char=nearest[1],
    )


def render_page(turn: Turn, sections: PromptSections) -> list[tuple[str, bool]]:
    """Return the prompt and the reply in pieces; True for pieces from the cache."""
    text = turn.prompt_text
    cached = _rule(f"from the cache: {sections.reused_tokens:,} of {len(turn.prompt_ids):,} tokens")
    if not sections.reused_tokens:
        cached = _rule(f"nothing from the cache: {len(turn.prompt_ids):,} tokens computed")
    new = _rule(f"new in this turn: {len(turn.prompt_ids) - sections.new_token:,} tokens")
    ends = _rule(f"the cache ended {_distance(sections)}")
    cuts = {0: [cached]} if turn.cache else {0: []}
    cuts.setdefault(sections.new_char, []).append(new)
    if sections.reused_tokens:
        cuts.setdefault(sections.cache_char, []).insert(0, ends)
    pieces: list[tuple[str, bool]] = []
    chars = sorted(cuts)
    for start, end in zip(chars, [*chars[1:], len(text)], strict=True):
        pieces += [(rule, False) for rule in cuts[start]]
        if text[start:end]:
            pieces.append((visible_lines(text[start:end]), start < sections.cache_char))
    return [*pieces, *_reply(turn)]


def _reply(turn: Turn) -> Iterator[tuple[str, bool]]:
    finished = turn.finished
    stop = "cut off" if finished is None else f"stopped by {visible(finished.stop_reason)}"
    yield _rule(f"the reply: {len(turn.tokens):,} tokens, {stop}"), False
    text = "(text not recorded yet)" if finished is None else finished.text
    yield visible_lines(text), False


def _distance(sections: PromptSections) -> str:
    distance = sections.reused_tokens - sections.cache_token
    if not distance:
        return "here"
    tokens = "token" if abs(distance) == 1 else "tokens"
    return f"{abs(distance):,} {tokens} {'after' if distance > 0 else 'before'} this line"


def _rule(text: str) -> str:
    return f"──── {text} ────"


def tools_of(number: int, envelopes: Iterable[Envelope]) -> list[ToolCalled | ToolReturned]:
    """Return the tool calls of a turn and their results, in order."""
    return [
        each.event
        for each in envelopes
        if each.turn == number and isinstance(each.event, ToolCalled | ToolReturned)
    ]


def tools_of_round(turn: Turn, envelopes: Sequence[Envelope]) -> list[ToolCalled | ToolReturned]:
    """Return the tool calls of one round and their results, in order.

    `envelopes` are those that the round was rebuilt from. Calls that precede the first round of a
    turn are its calls.
    """
    of_turn = [each for each in envelopes if each.turn == turn.number]
    starts = [index for index, each in enumerate(of_turn) if isinstance(each.event, TurnStarted)]
    # Two rounds may be equal: one that was cut off begins again when the run is resumed.
    place = next(n for n, index in enumerate(starts) if of_turn[index].event is turn.started)
    begin = starts[place] if place else 0
    return tools_of(turn.number, of_turn[begin : [*starts, None][place + 1]])


def tool_lines(events: Iterable[ToolCalled | ToolReturned]) -> Iterator[str]:
    """Yield lines about calls and the sizes of results; the prompt shows their content."""
    for event in events:
        if isinstance(event, ToolCalled):
            yield event.describe() or ""
        else:
            yield (
                f"  → {event.content_tokens:,} tokens shown, of a full result of "
                f"{event.payload_bytes:,} bytes and {event.payload_tokens:,} tokens"
            )
            if event.error:
                yield f"  → error: {visible(event.error)}"
            yield from (f"    {visible(each)}" for each in event.traceback.splitlines())


def page_json(
    sections: PromptSections, tools: Sequence[ToolCalled | ToolReturned]
) -> dict[str, Any]:
    named = [{"kind": type(event).__name__, **asdict(event)} for event in tools]
    return {"sections": asdict(sections), "tools": named}


def pieces_of(
    tokenizer: "PreTrainedTokenizerBase | None", turn: Turn
) -> dict[str, list[str] | None]:
    """Return the pieces of the texts of prompt and reply, one for each token; None without a
    tokenizer.

    A character of several tokens is in the piece of its last one.
    """
    if tokenizer is None:
        return {"prompt_pieces": None, "reply_pieces": None}
    from tokentape.generation.history.incremental_decoder import decode_each

    return {
        "prompt_pieces": decode_each(tokenizer, (), turn.prompt_ids),
        "reply_pieces": decode_each(tokenizer, turn.prompt_ids, turn.reply_ids),
    }


Spelling = Callable[[int], str | None]
"""Returns the text of a token, or None if it is not known."""


def spelling_of(recording: Recording, tokenizer: "PreTrainedTokenizerBase | None") -> Spelling:
    """Return a function that spells tokens: with the tokenizer or, without one, as recorded.

    Recorded are the texts of tokens that were sampled, or likely, in the run or in a run that it
    was forked from.
    """
    if tokenizer is not None:
        from tokentape.generation.history.spelling import spell_token

        return partial(spell_token, tokenizer)
    texts: dict[str, str] = {}
    kinds = RecordFilter(kinds=frozenset((TokensSpelled.__name__,)))
    for each in (recording, *recording.lineage()):
        for record in each.selected(kinds):
            event = decode(each.run_id, record).event
            if isinstance(event, TokensSpelled):
                texts = {**event.texts, **texts}
    return lambda token_id: texts.get(str(token_id))


def _quoted(spelling: Spelling, token_id: int) -> str:
    text = spelling(token_id)
    return "" if text is None else quoted(text, _PIECE_COLUMNS)


class TokenOrder(StrEnum):
    """The order in which the tokens of a reply are listed."""

    STEP = "step"
    ENTROPY = "entropy"
    LOGPROB = "logprob"
    GAP = "gap"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyToken:
    """A token of a reply, in texts for a table."""

    step: int
    position: int
    token_id: int
    text: str
    """The token in quotes; "" if it is not known."""
    logprob: float
    entropy: float
    gap: float
    likeliest: str
    """The likeliest tokens with their log-probabilities."""


def prompt_token_lines(turn: Turn, sections: PromptSections, spelling: Spelling) -> Iterator[str]:
    """Yield one line for each token of the prompt, with its origin."""
    yield f"{'position':>8} {'id':>8}  {padded('text', _PIECE_COLUMNS + 2)}  from"
    for index, token_id in enumerate(turn.prompt_ids):
        source = "cache" if index < sections.reused_tokens else "computed"
        new = ", new" if index >= sections.new_token else ""
        yield f"{index:>8} {token_id:>8}  {_padded(spelling, token_id)}  {source}{new}"


def reply_tokens(
    turn: Turn, spelling: Spelling, order: TokenOrder = TokenOrder.STEP
) -> list[ReplyToken]:
    """Return the tokens of a reply: the highest entropy first, or the lowest of another number."""
    found = [
        ReplyToken(
            step=token.step,
            position=token.position,
            token_id=token.token_id,
            text=_quoted(spelling, token.token_id),
            logprob=token.logprob,
            entropy=token.entropy,
            gap=token.top_gap,
            likeliest=_chosen_by(turn, token) + _top_tokens(token, spelling),
        )
        for token in turn.tokens
    ]
    sign = -1 if order is TokenOrder.ENTROPY else 1
    return sorted(found, key=lambda each: sign * getattr(each, order.value))


def _chosen_by(turn: Turn, token: TokenSampled) -> str:
    return "the experimenter's; " if token.step in turn.forced_steps else ""


def _top_tokens(token: TokenSampled, spelling: Spelling) -> str:
    pairs = zip(token.top_ids, token.top_logprobs, strict=True)
    shown = []
    for token_id, logprob in list(pairs)[:_TOP_SHOWN]:
        name = _quoted(spelling, token_id) or str(token_id)
        shown.append(f"{name} {logprob:.2f}")
    return "  ".join(shown)


def _padded(spelling: Spelling, token_id: int) -> str:
    return padded(_quoted(spelling, token_id), _PIECE_COLUMNS + 2)
