"""Comparison of two turns: their prompts, their replies, and the numbers of their tokens."""

from collections.abc import Collection, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from tokentape.recorder.events import TokenSampled
from tokentape.recorder.projections import Turn
from tokentape.replay.results.json_fields import unequal_fields
from tokentape.replay.run_diff.diff_types import (
    MessageDifference,
    NumberDifferences,
    Pair,
    PromptDifference,
    ReplyDifference,
    SampledToken,
    TextDifference,
    TextSource,
)
from tokentape.replay.run_diff.run_outline import OutlinedMessage, PromptSpan, TurnOutline

_CHARS_BEFORE = 60
_CHARS_AFTER = 60
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
    """Return the first index where two sequences differ, at most the shorter length, or None."""
    if a == b:
        return None
    # Comparing slices in a binary search avoids a Python loop over a hundred thousand ids.
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def compare_texts(a: str, b: str) -> TextDifference | None:
    """Return the first difference of two texts, or None if they are equal."""
    index = first_unequal(a, b)
    if index is None:
        return None
    start, end = max(0, index - _CHARS_BEFORE), index + _CHARS_AFTER
    return TextDifference(index=index, before=a[start:index], a=a[index:end], b=b[index:end])


def compare_prompts(
    a: TurnOutline, b: TurnOutline, *, redacted: bool, diverged: bool
) -> PromptDifference | None:
    """Return the difference of two prompts, or None if they are equal.

    `redacted` says that the ids were removed, `diverged` that the runs diverged in an earlier turn.
    """
    ids_a, ids_b = _prompt_ids(a), _prompt_ids(b)
    index = None if redacted else first_unequal(ids_a, ids_b)
    text = compare_texts(_prompt_text(a), _prompt_text(b))
    message = _compare_messages(a.messages, b.messages, redacted=redacted)
    fields = unequal_fields("", _history(a.turn), _history(b.turn))
    tokens = Pair(len(ids_a), len(ids_b))
    differs = index is not None or text or message or fields
    if not differs and tokens.a == tokens.b:
        return None
    sources = Pair(_source_at(a.spans, index), _source_at(b.spans, index))
    return PromptDifference(
        index=index,
        ids=Pair(_at(ids_a, index), _at(ids_b, index)),
        tokens=tokens,
        sources=sources,
        text=text,
        inherited=diverged and message is None and _is_of_earlier_turns(sources, a.number),
        message=message,
        fields=fields,
    )


def _is_of_earlier_turns(sources: Pair[TextSource | None], turn: int) -> bool:
    known = [source.turn for source in (sources.a, sources.b) if source is not None]
    return not known or min(known) < turn


def _prompt_ids(outlined: TurnOutline) -> tuple[int, ...]:
    return () if outlined.turn is None else outlined.turn.prompt_ids


def _prompt_text(outlined: TurnOutline) -> str:
    return "" if outlined.turn is None else outlined.turn.prompt_text


def _history(turn: Turn | None) -> dict[str, Any]:
    """Return how the prompt was built, except its messages."""
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


def _source_at(spans: Sequence[PromptSpan], index: int | None) -> TextSource | None:
    """Return the source of an id of the prompt; None beyond its end."""
    if index is None:
        return None
    end = 0
    for span in spans:
        end += span.tokens
        if index < end:
            return span.source
    return None


def _compare_messages(
    a: Sequence[OutlinedMessage], b: Sequence[OutlinedMessage], *, redacted: bool
) -> MessageDifference | None:
    for one, other in zip_longest(a, b):
        if one is None or other is None:
            text = compare_texts(one.content if one else "", other.content if other else "")
        elif _comparable(one, redacted=redacted) == _comparable(other, redacted=redacted):
            continue
        else:
            text = compare_texts(one.content, other.content) or compare_texts(one.text, other.text)
        sources = Pair(one.source if one else None, other.source if other else None)
        return MessageDifference(sources=sources, text=text)
    return None


def _comparable(message: OutlinedMessage, *, redacted: bool) -> tuple[Any, ...]:
    source = message.source
    ids = () if redacted else message.ids
    return source.role, source.tool_call_id, message.content, message.text, ids


def compare_replies(
    a: Turn, b: Turn, agreeing: int, texts: Pair[dict[int, str]]
) -> ReplyDifference | None:
    """Return the difference of two replies, or None if they are equal.

    `agreeing` is the result of `agreeing_tokens`, `texts` has the texts of token ids.
    """
    all_agree = agreeing == len(a.tokens) == len(b.tokens)
    text = None
    if a.finished is not None and b.finished is not None:
        text = compare_texts(a.finished.text, b.finished.text)
    fields = unequal_fields("", _ending(a), _ending(b))
    if all_agree and text is None and not fields:
        return None
    step = None if all_agree else agreeing
    token_a, token_b = _at(a.tokens, step), _at(b.tokens, step)
    return ReplyDifference(
        step=step,
        sampled=Pair(
            _sampled(token_a, token_b, a.forced_steps, texts.a),
            _sampled(token_b, token_a, b.forced_steps, texts.b),
        ),
        tokens=Pair(len(a.tokens), len(b.tokens)),
        text=text,
        fields=fields,
    )


def agreeing_tokens(a: Turn, b: Turn, *, redacted: bool) -> int:
    """Return how many tokens agree before the first that differs.

    Of redacted runs, replies of equal text and length agree; different ones agree as far as their
    log-probabilities are equal.
    """
    same_length = len(a.tokens) == len(b.tokens)
    if redacted and same_length and a.reply_text is not None and a.reply_text == b.reply_text:
        return len(a.tokens)
    one, other = (
        [token.logprob if redacted else token.token_id for token in turn.tokens] for turn in (a, b)
    )
    step = first_unequal(one, other)
    return len(one) if step is None else step


def compare_numbers(a: Turn, b: Turn, compared: int) -> NumberDifferences:
    """Compare the numbers of the first `compared` tokens, which must agree after equal prompts."""
    pairs = list(zip(a.tokens[:compared], b.tokens[:compared], strict=True))
    differences = [abs(one.logprob - other.logprob) for one, other in pairs]
    unequal = (i for i, (one, other) in enumerate(pairs) if _numbers(one) != _numbers(other))
    step = next(unequal, None)
    found = () if step is None else unequal_fields("", *map(_named_numbers, pairs[step]))
    # The most telling first: the top tokens say less than the sampled one.
    fields = sorted(found, key=lambda each: _NUMBERS.index(each.field.split(".")[0]))
    return NumberDifferences(
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
    """Return how the turn ended, except its text; empty if it was cut off."""
    if turn.finished is None:
        return {}
    return {
        "stop_reason": turn.finished.stop_reason,
        "stop_text": turn.finished.stop_text,
        "generator_sha256": turn.finished.generator_sha256,
    }


def _sampled(
    token: TokenSampled | None,
    other: TokenSampled | None,
    forced_steps: Collection[int],
    texts: Mapping[int, str],
) -> SampledToken | None:
    if token is None:
        return None
    top = dict(zip(token.top_ids, token.top_logprobs, strict=True))
    return SampledToken(
        token_id=token.token_id,
        text=texts.get(token.token_id),
        logprob=token.logprob,
        logprob_processed=token.logprob_processed,
        forced=token.step in forced_steps,
        other_logprob=None if other is None else top.get(other.token_id),
    )


def _at(sequence: Sequence[Any], index: int | None) -> Any:
    return None if index is None or index >= len(sequence) else sequence[index]
