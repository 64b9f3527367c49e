"""Find the literal texts around names and values of arguments, from replies with made-up calls."""

import json
from typing import Any

from tokentape.generation.tools.calls.literals import common_prefix, common_suffix
from tokentape.generation.tools.calls.notation import Notation
from tokentape.generation.tools.calls.template_calls import KEYS, NAMES, TEXTS, TemplateReplies

_QUOTED = 'it\'s\n"q" \\ z'
_NUMBER = 31337


def pair_literals(replies: TemplateReplies, notation: Notation) -> dict[str, Any] | None:
    """Return literal fields of a `CallSpelling` whose arguments are pairs.

    `quote_close` is added: what follows a string, with its closing quote if it has one.
    """
    if notation is Notation.BARE:
        return None
    one = _after_name(replies, {KEYS[0]: TEXTS[0]})
    two = _after_name(replies, {KEYS[0]: TEXTS[0], KEYS[1]: TEXTS[1]})
    first = None if one is None else _split(one, KEYS[0], TEXTS[0])
    if first is None or two is None:
        return None
    head, opened, tail = first
    rest = two.partition(TEXTS[0])[2]
    gap, _, _ = rest.partition(KEYS[1])
    if KEYS[1] not in rest:
        return None
    argument_open = common_suffix(head, gap)
    gap = gap.removesuffix(argument_open)
    closed = common_prefix(gap, tail)
    after_call = tail[len(closed) :]
    literals = {
        "name_close": head.removesuffix(argument_open),
        "argument_open": argument_open,
        "argument_between": gap[len(closed) :],
        "quote_close": closed,
    }
    quoted = _after_name(replies, {KEYS[0]: _QUOTED}) or ""
    if _is_literal(quoted, notation) and opened[-1:] in ("'", '"') and closed[:1] == opened[-1:]:
        return {**literals, "value_open": opened[:-1], "value_close": closed[1:]}
    number = _after_name(replies, {KEYS[0]: _NUMBER}) or ""
    value = _split(number, KEYS[0], str(_NUMBER))
    texts = {"text_open": opened, "text_close": closed}
    if value is None or not value[2].endswith(after_call):
        return {**literals, **texts, "value_open": opened, "value_close": closed}
    value_close = value[2].removesuffix(after_call) if after_call else value[2]
    return {**literals, **texts, "value_open": value[1], "value_close": value_close}


def _is_literal(written: str, notation: Notation) -> bool:
    """Return whether a string with quotes is written in the notation."""
    if notation is Notation.PYTHON:
        return repr(_QUOTED) in written
    return json.dumps(_QUOTED) in written


def _after_name(replies: TemplateReplies, arguments: dict[str, Any]) -> str | None:
    """Return what the template writes after a call's name; None if it refuses the call."""
    written = replies.write([(NAMES[0], arguments)])
    return None if written is None else written.partition(NAMES[0])[2]


def _split(written: str, key: str, value: str) -> tuple[str, str, str] | None:
    """Return the texts before an argument's name, between name and value, and after the value."""
    before, found, rest = written.partition(key)
    between, also, after = rest.partition(value)
    return (before, between, after) if found and also else None
