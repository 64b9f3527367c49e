"""A turn as the model saw it: the whole prompt, what of it was cached, what was new, the reply."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tokentape.recorder import Envelope
from tokentape.recorder.escapes import padded, quoted, visible, visible_lines
from tokentape.recorder.events import TokenSampled, ToolCalled, ToolReturned
from tokentape.recorder.projections import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PIECE_COLUMNS = 18
_CANDIDATES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Where a prompt is divided, in tokens and in characters of its text.

    From `new_token` on it was not there before this turn. The cache held `reused_tokens`; at
    `cache_char`, or nearest to it, is token `cache_token`: text can be divided only where events
    say which tokens spell it.
    """

    new_token: int
    new_char: int
    reused_tokens: int
    cache_token: int
    cache_char: int


def marks_of(turn: Turn, before: Iterable[Turn]) -> Marks:
    """`before` are the turns that came before it, in order."""
    started = turn.started
    new_token = started.kept_tokens - sum(len(message.ids) for message in turn.messages)
    new_char = started.kept_chars - sum(len(message.text) for message in turn.messages)
    reused = turn.cache.reused_tokens if turn.cache else 0
    seams = [(0, 0), (new_token, new_char), *_seams(turn, before)]
    nearest = min(seams, key=lambda seam: abs(seam[0] - reused))
    return Marks(
        new_token=new_token,
        new_char=new_char,
        reused_tokens=reused,
        cache_token=nearest[0],
        cache_char=nearest[1],
    )


def _seams(turn: Turn, before: Iterable[Turn]) -> Iterator[tuple[int, int]]:
    """Tokens and characters that earlier turns ended at, where this prompt begins with theirs."""
    for earlier in before:
        ids, text = earlier.prompt_ids, earlier.prompt_text
        if turn.prompt_ids[: len(ids)] == ids and turn.prompt_text.startswith(text):
            yield len(ids), len(text)
            opened = earlier.started
            yield opened.kept_tokens, opened.kept_chars


def render_page(turn: Turn, marks: Marks) -> list[tuple[str, bool]]:
    """The prompt and the reply, in parts; true for those that came from the cache."""
    text = turn.prompt_text
    cached = _rule(f"from the cache: {marks.reused_tokens:,} of {len(turn.prompt_ids):,} tokens")
    if not marks.reused_tokens:
        cached = _rule(f"nothing from the cache: {len(turn.prompt_ids):,} tokens computed")
    new = _rule(f"new in this turn: {len(turn.prompt_ids) - marks.new_token:,} tokens")
    ends = _rule(f"the cache ended {_apart(marks)}")
    cuts = {0: [cached]} if turn.cache else {0: []}
    cuts.setdefault(marks.new_char, []).append(new)
    if marks.reused_tokens:
        cuts.setdefault(marks.cache_char, []).insert(0, ends)
    parts: list[tuple[str, bool]] = []
    places = sorted(cuts)
    for start, end in zip(places, [*places[1:], len(text)], strict=True):
        parts += [(rule, False) for rule in cuts[start]]
        if text[start:end]:
            parts.append((visible_lines(text[start:end]), start < marks.cache_char))
    return [*parts, *_reply(turn)]


def _reply(turn: Turn) -> Iterator[tuple[str, bool]]:
    stop = "cut off" if turn.finished is None else f"stopped by {turn.finished.stop_reason}"
    yield _rule(f"the reply: {len(turn.tokens):,} tokens, {stop}"), False
    text = "(text not recorded yet)" if turn.finished is None else turn.finished.text
    yield visible_lines(text), False


def _apart(marks: Marks) -> str:
    apart = marks.reused_tokens - marks.cache_token
    if not apart:
        return "here"
    tokens = "token" if abs(apart) == 1 else "tokens"
    return f"{abs(apart):,} {tokens} {'behind' if apart > 0 else 'before'} this line"


def _rule(text: str) -> str:
    return f"──── {text} ────"


def tools_of(number: int, envelopes: Iterable[Envelope]) -> list[ToolCalled | ToolReturned]:
    """The calls of tools that belong to a turn, and their results, in order."""
    return [
        each.event
        for each in envelopes
        if each.turn == number and isinstance(each.event, ToolCalled | ToolReturned)
    ]


def tool_lines(events: Iterable[ToolCalled | ToolReturned]) -> Iterator[str]:
    """Who called what, and how large the answer was: what was read of it is in the prompt."""
    for event in events:
        if isinstance(event, ToolCalled):
            yield event.describe() or ""
        else:
            yield (
                f"  → {event.content_tokens:,} tokens to read, of a full result of "
                f"{event.payload_bytes:,} bytes and {event.payload_tokens:,} tokens"
            )
            if event.error:
                yield f"  → error: {visible(event.error)}"


def page_json(marks: Marks, tools: Sequence[ToolCalled | ToolReturned]) -> dict[str, Any]:
    named = [{"kind": type(event).__name__, **asdict(event)} for event in tools]
    return {"marks": asdict(marks), "tools": named}


def pieces_of(
    tokenizer: "PreTrainedTokenizerBase | None", turn: Turn
) -> dict[str, list[str] | None]:
    """What each token of the prompt and of the reply spells in its place; None where unknown."""
    if tokenizer is None:
        return {"prompt_pieces": None, "reply_pieces": None}
    prompt = turn.prompt_ids
    pieces = _spelled(tokenizer, [*prompt, *turn.reply_ids])
    return {"prompt_pieces": pieces[: len(prompt)], "reply_pieces": pieces[len(prompt) :]}


def _spelled(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[str]:
    from tokentape.generation.history.decoding import decode_after

    return [
        decode_after(tokenizer, ids[max(0, place - 4) : place], [token_id])
        for place, token_id in enumerate(ids)
    ]


def token_lines(
    turn: Turn, marks: Marks, tokenizer: "PreTrainedTokenizerBase | None"
) -> Iterator[str]:
    """A line a token: the prompt's with where they came from, the reply's with what was likely."""
    pieces = pieces_of(tokenizer, turn)
    yield f"{'position':>8} {'id':>8}  {padded('text', _PIECE_COLUMNS + 2)}  from"
    prompt = pieces["prompt_pieces"] or [""] * len(turn.prompt_ids)
    for place, (token_id, piece) in enumerate(zip(turn.prompt_ids, prompt, strict=True)):
        source = "cache" if place < marks.reused_tokens else "computed"
        new = ", new" if place >= marks.new_token else ""
        yield f"{place:>8} {token_id:>8}  {_quoted(piece, tokenizer)}  {source}{new}"
    yield (
        f"{'position':>8} {'id':>8}  {padded('text', _PIECE_COLUMNS + 2)}  {'logprob':>8}  "
        f"{'entropy':>7}  likeliest"
    )
    reply = pieces["reply_pieces"] or [""] * len(turn.tokens)
    for token, piece in zip(turn.tokens, reply, strict=True):
        yield (
            f"{token.position:>8} {token.token_id:>8}  {_quoted(piece, tokenizer)}  "
            f"{token.logprob:>8.3f}  {token.entropy:>7.3f}  {_candidates(token, turn, tokenizer)}"
        )


def _candidates(
    token: TokenSampled, turn: Turn, tokenizer: "PreTrainedTokenizerBase | None"
) -> str:
    step = token.step - turn.first_step
    before = [*turn.prompt_ids, *turn.reply_ids[:step]][-4:]
    pairs = zip(token.top_ids, token.top_logprobs, strict=True)
    shown = []
    for token_id, logprob in list(pairs)[:_CANDIDATES_SHOWN]:
        name = str(token_id)
        if tokenizer is not None:
            name = quoted(_spelled(tokenizer, [*before, token_id])[-1], _PIECE_COLUMNS)
        shown.append(f"{name} {logprob:.2f}")
    return "  ".join(shown)


def _quoted(piece: str, tokenizer: "PreTrainedTokenizerBase | None") -> str:
    shown = "" if tokenizer is None else quoted(piece, _PIECE_COLUMNS)
    return padded(shown, _PIECE_COLUMNS + 2)
