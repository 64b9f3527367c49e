"""Where two turns part: in what was read, in what was said, and in the numbers of it."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from tokentape.recorder.events import TokenSampled
from tokentape.recorder.projections import Turn
from tokentape.replay.run_diff.diff_types import (
    MessageDifference,
    Numbers,
    Place,
    PromptDifference,
    ReplyDifference,
    SampledToken,
    Sides,
    TextParting,
)
from tokentape.replay.run_diff.json_fields import unequal_fields
from tokentape.replay.run_diff.run_outline import PlacedMessage, Span, TurnOutline

_CHARS_BEFORE = 60
_CHARS_AFTER = 60
_WORD_CHARS_MAX = 20
_NUMBERS = (
    "logprob",
    "logprob_processed",
    "entropy",
    "top_gap",
    "top_ids",
    "top_logprobs",
    "position",
)


def first_unequal(a: Sequence[Any], b: Sequence[Any]) -> int | None:
    """The first place where two sequences differ, which may be the end of one; None if nowhere."""
    if a == b:
        return None
    # Slices are compared without a step of Python's for each of a hundred thousand ids.
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def part_texts(a: str, b: str) -> TextParting | None:
    at = first_unequal(a, b)
    if at is None:
        return None
    # Both are the same up to there, so either tells where the word begins.
    word = at
    while word > max(0, at - _WORD_CHARS_MAX) and not a[word - 1].isspace():
        word -= 1
    if word and a[word - 1] == " ":
        word -= 1
    end = at + _CHARS_AFTER
    return TextParting(
        at=at, before=a[max(0, word - _CHARS_BEFORE) : word], a=a[word:end], b=b[word:end]
    )


def compare_prompts(
    a: TurnOutline, b: TurnOutline, *, withheld: bool, parted: bool
) -> PromptDifference | None:
    """`parted` says that the runs parted in an earlier turn."""
    ids_a, ids_b = _prompt_ids(a), _prompt_ids(b)
    index = None if withheld else first_unequal(ids_a, ids_b)
    text = part_texts(_prompt_text(a), _prompt_text(b))
    message = _compare_messages(a.messages, b.messages, withheld=withheld)
    fields = unequal_fields("", _history(a.turn), _history(b.turn))
    tokens = Sides(len(ids_a), len(ids_b))
    differs = index is not None or text or message or fields
    if not differs and tokens.a == tokens.b:
        return None
    places = Sides(_place_at(a.spans, index), _place_at(b.spans, index))
    return PromptDifference(
        index=index,
        ids=Sides(_at(ids_a, index), _at(ids_b, index)),
        tokens=tokens,
        places=places,
        text=text,
        inherited=parted and message is None and _stands_in_the_past(places, a.number),
        message=message,
        fields=fields,
    )


def _stands_in_the_past(places: Sides[Place | None], turn: int) -> bool:
    known = [place.turn for place in (places.a, places.b) if place is not None]
    return not known or min(known) < turn


def _prompt_ids(outlined: TurnOutline) -> tuple[int, ...]:
    return () if outlined.turn is None else outlined.turn.prompt_ids


def _prompt_text(outlined: TurnOutline) -> str:
    return "" if outlined.turn is None else outlined.turn.prompt_text


def _history(turn: Turn | None) -> dict[str, Any]:
    """How the prompt came about, besides the messages in it."""
    if turn is None:
        return {}
    pruned = turn.pruned
    return {"history_reason": turn.started.history_reason} | (
        {}
        if pruned is None
        else {
            "pruned": {
                "policy": pruned.policy,
                "reason": pruned.reason,
                "removed_tokens": pruned.removed_tokens,
                "removed_messages": pruned.removed_messages,
            }
        }
    )


def _place_at(spans: Sequence[Span], index: int | None) -> Place | None:
    """Whose id is at a place of the prompt; None behind its end."""
    if index is None:
        return None
    end = 0
    for span in spans:
        end += span.tokens
        if index < end:
            return span.place
    return None


def _compare_messages(
    a: Sequence[PlacedMessage], b: Sequence[PlacedMessage], *, withheld: bool
) -> MessageDifference | None:
    for one, other in zip_longest(a, b):
        if one is None or other is None:
            text = part_texts(one.content if one else "", other.content if other else "")
        elif _said(one, withheld=withheld) == _said(other, withheld=withheld):
            continue
        else:
            text = part_texts(one.content, other.content) or part_texts(one.text, other.text)
        places = Sides(one.place if one else None, other.place if other else None)
        return MessageDifference(places=places, text=text)
    return None


def _said(message: PlacedMessage, *, withheld: bool) -> tuple[Any, ...]:
    place = message.place
    ids = () if withheld else message.ids
    return place.role, place.tool_call_id, message.content, message.text, ids


def compare_replies(a: Turn, b: Turn, agreeing: int, *, withheld: bool) -> ReplyDifference | None:
    """`agreeing` is what `agreeing_tokens` found."""
    whole = agreeing == len(a.tokens) == len(b.tokens)
    text = None
    if a.finished is not None and b.finished is not None:
        text = part_texts(a.finished.text, b.finished.text)
    fields = unequal_fields("", _ending(a), _ending(b))
    if whole and text is None and not fields:
        return None
    step = None if whole else agreeing
    token_a, token_b = _at(a.tokens, step), _at(b.tokens, step)
    return ReplyDifference(
        step=step,
        sampled=Sides(_sampled(token_a, token_b), _sampled(token_b, token_a)),
        tokens=Sides(len(a.tokens), len(b.tokens)),
        text=text,
        fields=fields,
    )


def agreeing_tokens(a: Turn, b: Turn, *, withheld: bool) -> int:
    """How many tokens agree before the first that differs.

    Where ids are withheld, as many tokens of the same text are the same, and others are as far as
    their log-probabilities are.
    """
    same_length = len(a.tokens) == len(b.tokens)
    if withheld and same_length and a.reply_text is not None and a.reply_text == b.reply_text:
        return len(a.tokens)
    one, other = (
        [token.logprob if withheld else token.token_id for token in turn.tokens] for turn in (a, b)
    )
    step = first_unequal(one, other)
    return len(one) if step is None else step


def compare_numbers(a: Turn, b: Turn, compared: int) -> Numbers:
    """Of the first so many tokens, which agree behind the same prompt."""
    pairs = list(zip(a.tokens[:compared], b.tokens[:compared], strict=True))
    differences = [abs(one.logprob - other.logprob) for one, other in pairs]
    unequal = (i for i, (one, other) in enumerate(pairs) if _numbers(one) != _numbers(other))
    step = next(unequal, None)
    found = () if step is None else unequal_fields("", *map(_named_numbers, pairs[step]))
    # In the order of what they tell: candidates less than the token that was sampled.
    fields = sorted(found, key=lambda each: _NUMBERS.index(each.field.split(".")[0]))
    return Numbers(
        compared=compared,
        difference_max=max(differences, default=0.0),
        difference_mean=sum(differences) / compared if compared else 0.0,
        step=step,
        fields=tuple(fields),
    )


def _numbers(token: TokenSampled) -> tuple[Any, ...]:
    return (
        token.logprob,
        token.logprob_processed,
        token.entropy,
        token.top_gap,
        token.top_ids,
        token.top_logprobs,
        token.position,
    )


def _named_numbers(token: TokenSampled) -> dict[str, Any]:
    return dict(zip(_NUMBERS, _numbers(token), strict=True))


def _ending(turn: Turn) -> dict[str, Any]:
    """What the end of the turn says besides the text; nothing where it was cut off."""
    if turn.finished is None:
        return {}
    return {
        "stop_reason": turn.finished.stop_reason,
        "stop_text": turn.finished.stop_text,
        "generator_sha256": turn.finished.generator_sha256,
    }


def _sampled(token: TokenSampled | None, other: TokenSampled | None) -> SampledToken | None:
    if token is None:
        return None
    candidates = dict(zip(token.top_ids, token.top_logprobs, strict=True))
    return SampledToken(
        token_id=token.token_id,
        logprob=token.logprob,
        logprob_processed=token.logprob_processed,
        other_logprob=None if other is None else candidates.get(other.token_id),
    )


def _at(sequence: Sequence[Any], index: int | None) -> Any:
    return None if index is None or index >= len(sequence) else sequence[index]
