"""A comparison of two runs in plain text. The data is in `Diff`; nothing is found out here."""

import json
import re
from collections.abc import Collection, Iterator
from itertools import groupby
from typing import Any

from tokentape.recorder.escapes import quoted, visible
from tokentape.replay.run_diff.diff_types import (
    ComparedRun,
    Diff,
    Numbers,
    Place,
    PromptDifference,
    ReplyDifference,
    SampledToken,
    TextParting,
    TurnDiff,
    UnequalField,
)

_FIELDS_SHOWN = 8
_VALUE_CHARS = 60
_TEXT_COLUMNS = 80
_WORD_COLUMNS = 40
_FIRST_WORD = re.compile(r"\s*\S*")
_SUM = re.compile(r"[0-9a-f]{64}")
_SUM_CHARS = 12


def headline(found: Diff) -> str:
    """Where the two runs part, and how, in one line."""
    if found.same:
        return f"the same in {_all_turns(found)}, {_count(found.a.tokens, 'token')}"
    parting = found.parting
    if parting is None:
        besides = "; ".join(_besides(found))
        return f"same prompts and replies in {_all_turns(found)}; {besides}"
    earlier = [turn.turn for turn in found.turns if turn.turn < parting.turn]
    before = f"same prompts and replies up to turn {earlier[-1]}; " if earlier else ""
    return before + _parting(found, parting)


def render(found: Diff, turns: Collection[int] = ()) -> str:
    """The comparison: in full the turns asked for, or else those up to where the runs part."""
    lines = [headline(found), _run("a", found.a), _run("b", found.b)]
    if found.a.withheld or found.b.withheld:
        lines.append("  ids were withheld by a redactor: only texts and numbers are compared")
    lines += _fields("began otherwise", found.beginning)
    lines += _fields("ended otherwise", found.ending)
    lines += _fields("noted", found.circumstances)
    parting = found.parting
    last = parting.turn if parting is not None else None
    for same, group in groupby(found.turns, key=lambda turn: turn.same):
        members = list(group)
        if same and not turns:
            lines.append(f"{_turn_range(members)}  the same")
            continue
        for turn in members:
            in_full = turn.turn in turns if turns else last is None or turn.turn <= last
            lines += _turn(turn) if in_full else ([] if turns else [_turn_in_short(turn)])
    lines += _timing(found, turns)
    return "\n".join(lines)


def _parting(found: Diff, turn: TurnDiff) -> str:
    if turn.only_in:
        mine = [each for each in found.turns if each.only_in == turn.only_in]
        if not turn.begun:
            return f"behind it only {turn.only_in} goes on"
        return f"only {turn.only_in} has turn {turn.turn}" + (
            f" and {_count(len(mine) - 1, 'more')}" if len(mine) > 1 else ""
        )
    prompt, reply = turn.prompt, turn.reply
    if prompt is not None and (prompt.ids_differ or prompt.message is not None):
        return f"turn {turn.turn} reads {_prompt_in_short(prompt)}"
    assert reply is not None
    if reply.step is None:
        return f"turn {turn.turn} has another text: {_words(reply.text)}"
    said = _words(reply.text) if reply.text is not None else _ids(reply)
    return f"turn {turn.turn} parts at token {reply.step}: {said}"


def _prompt_in_short(prompt: PromptDifference) -> str:
    if prompt.message is not None:
        place = prompt.message.places.a or prompt.message.places.b
        return f"another {_message(place)}: {_words(prompt.message.text)}"
    if prompt.text is None:
        if prompt.index is None:
            return f"a prompt of {prompt.tokens.a:,} / {prompt.tokens.b:,} tokens"
        return f"the same text in other tokens, from id {prompt.index} on"
    place = prompt.places.a or prompt.places.b
    whose = f" ({_whose(place)})" if place is not None else ""
    return f"another prompt{whose}: {_words(prompt.text)}"


def _besides(found: Diff) -> Iterator[str]:
    """What differs though the same is read and said."""
    numbers = next((t for t in found.turns if t.numbers and t.numbers.step is not None), None)
    if numbers is not None and numbers.numbers is not None:
        largest = max(t.numbers.difference_max for t in found.turns if t.numbers)
        off = f"off by {largest:.2g} at most" if largest else "equal before the processors"
        place = f"turn {numbers.turn}, token {numbers.numbers.step}"
        yield f"other numbers from {place} on, log-probabilities {off}"
    for part in ("prompt", "reply", "sampling", "cache", "tools"):
        turns = [turn for turn in found.turns if part in turn.differing]
        if turns:
            yield f"{_OTHER[part]} in {_listed([turn.turn for turn in turns])}"
    if found.beginning:
        yield f"began otherwise: {', '.join(visible(each.field) for each in found.beginning[:4])}"
    if found.ending:
        yield f"ended otherwise: {_pair(found.ending[-1])}"


_OTHER = {
    "prompt": "another history",
    "reply": "another end",
    "sampling": "other sampling",
    "cache": "another cache decision",
    "tools": "other tool calls",
}


def _turn(turn: TurnDiff) -> Iterator[str]:
    """A turn in full."""
    if turn.only_in:
        yield f"turn {turn.turn}  only in {turn.only_in}"
        return
    yield f"turn {turn.turn}" + ("" if turn.begun else "  (not begun)")
    yield from _fields("sampling differs", turn.sampling)
    for each in turn.tools:
        names = dict.fromkeys(visible(name) for name in (each.names.a, each.names.b) if name)
        lone = f", only in {each.only_in}" if each.only_in else ""
        yield from _fields(f"tool call {each.call}: {' / '.join(names)}{lone}", each.fields)
    if turn.prompt is not None:
        yield from _prompt(turn.prompt)
    yield from _fields("cache differs", turn.cache)
    if turn.reply is not None:
        yield from _reply(turn.reply)
    if turn.numbers is not None:
        yield from _numbers(turn.numbers)


def _turn_in_short(turn: TurnDiff) -> str:
    if turn.only_in:
        return f"turn {turn.turn}  only in {turn.only_in}"
    inherited = turn.prompt is not None and turn.prompt.inherited
    parts = [
        "prompt (from before)" if part == "prompt" and inherited else part
        for part in turn.differing
    ]
    return f"turn {turn.turn}  {', '.join(parts)}"


def _prompt(prompt: PromptDifference) -> Iterator[str]:
    yield f"  prompt: {_prompt_in_short(prompt)}"
    if prompt.index is not None:
        whose = [
            f"{'end' if place is None else f'id {id_}, {_whose(place)}'}"
            for place, id_ in ((prompt.places.a, prompt.ids.a), (prompt.places.b, prompt.ids.b))
        ]
        yield f"    from id {prompt.index} on: {' / '.join(whose)}"
    if prompt.tokens.a != prompt.tokens.b:
        yield f"    {prompt.tokens.a:,} / {prompt.tokens.b:,} tokens"
    message = prompt.message
    yield from _text(message.text if message is not None and message.text else prompt.text)
    yield from _fields("history of the prompt", prompt.fields)


def _reply(reply: ReplyDifference) -> Iterator[str]:
    if reply.step is None:
        yield f"  reply: the same {reply.tokens.a:,} tokens"
    else:
        yield f"  reply: parts at token {reply.step}, of {_of(reply)}"
        yield f"    a  {_sampled(reply.sampled.a, 'b')}"
        yield f"    b  {_sampled(reply.sampled.b, 'a')}"
    yield from _text(reply.text)
    yield from _fields("end of the reply", reply.fields)


def _of(reply: ReplyDifference) -> str:
    return f"{reply.tokens.a:,} / {reply.tokens.b:,}"


def _sampled(token: SampledToken | None, other: str) -> str:
    if token is None:
        return "has ended"
    gave = "" if token.other_logprob is None else f", that of {other} {token.other_logprob:.4f}"
    return f"id {token.token_id}, log-probability {token.logprob:.4f}{gave}"


def _numbers(numbers: Numbers) -> Iterator[str]:
    if not numbers.compared:
        return
    compared = f"  numbers of {_count(numbers.compared, 'token')}"
    if numbers.step is None:
        yield f"{compared}: equal"
        return
    if numbers.difference_max:
        yield (
            f"{compared}: log-probabilities off by {numbers.difference_max:.2g} at most, "
            f"{numbers.difference_mean:.2g} on average"
        )
    else:
        yield f"{compared}: log-probabilities equal before the processors"
    yield from _fields(f"from token {numbers.step}", numbers.fields)


def _text(text: TextParting | None) -> Iterator[str]:
    if text is not None:
        before = quoted(text.before, _TEXT_COLUMNS, keep="end")
        yield f"    after {before}" if text.before else "    at the beginning"
        yield f"    a  {quoted(text.a, _TEXT_COLUMNS)}"
        yield f"    b  {quoted(text.b, _TEXT_COLUMNS)}"


def _timing(found: Diff, turns: Collection[int]) -> list[str]:
    """Over all turns that both have; of tokens it is the mean time of one."""
    shown = [t for t in found.turns if t.begun and not t.only_in and (not turns or t.turn in turns)]
    parts = []
    for what in ("turn", "prefill", "token", "tools"):
        pairs = [(d.a, d.b) for t in shown for d in t.timing if d.what == what]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        a, b = (sum(side) for side in zip(*known, strict=True)) if known else (0.0, 0.0)
        if a:
            parts.append(f"{what} {b / a:.2f}")
    return [f"time of b over a: {', '.join(parts)}"] if parts else []


def _run(side: str, run: ComparedRun) -> str:
    turns = f"{_count(run.turns, 'turn')}, {_count(run.tokens, 'token')}"
    return f"  {side}  {run.run_id}  {visible(run.name)}  {turns}  {visible(run.where)}"


def _fields(heading: str, fields: Collection[UnequalField]) -> Iterator[str]:
    """A line a field, beneath its heading; none where there is no field."""
    if fields or heading.startswith("tool"):
        yield f"  {heading}"
    for place, each in enumerate(fields):
        if place == _FIELDS_SHOWN:
            yield f"    … {len(fields) - place} more; --json has all"
            return
        yield f"    {_pair(each)}"


def _pair(each: UnequalField) -> str:
    sides = [
        "(none)" if each.lacking == side else _value(value, (each.a, each.b))
        for side, value in (("a", each.a), ("b", each.b))
    ]
    return f"{visible(each.field)}: {' / '.join(sides)}"


def _value(value: Any, both: tuple[Any, Any]) -> str:
    """As JSON; of long ones the part in which they begin to differ."""
    if isinstance(value, str) and _SUM.fullmatch(value):
        return f"{value[:_SUM_CHARS]}…"
    text = _json(value)
    if len(text) <= _VALUE_CHARS:
        return visible(text)
    one, other = map(_json, both)
    pairs = enumerate(zip(one, other, strict=False))
    at = next((i for i, (x, y) in pairs if x != y), min(len(one), len(other)))
    start = max(0, at - _VALUE_CHARS // 3)
    end = start + _VALUE_CHARS
    return ("…" if start else "") + visible(text[start:end]) + ("…" if end < len(text) else "")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _words(text: TextParting | None) -> str:
    """The first word of each side, as far as they tell them apart."""
    if text is None:
        return "the same text under another role, for another call or in other tokens"
    words = (_FIRST_WORD.match(side) for side in (text.a, text.b))
    return " / ".join(
        quoted(word[0], _WORD_COLUMNS) if word and word[0] else "(end)" for word in words
    )


def _ids(reply: ReplyDifference) -> str:
    sides = (reply.sampled.a, reply.sampled.b)
    return " / ".join("(end)" if token is None else f"id {token.token_id}" for token in sides)


def _message(place: Place | None) -> str:
    if place is None or place.role == "system":
        return "system prompt"
    if place.tool_call_id is not None:
        return f"result of {visible(place.tool_call_id)}"
    return f"{visible(place.role)} message"


def _whose(place: Place) -> str:
    if place.role == "assistant":
        return f"reply of turn {place.turn}"
    if place.role == "template":
        return f"template of turn {place.turn}"
    return _message(place) + ("" if place.role == "system" else f" of turn {place.turn}")


def _all_turns(found: Diff) -> str:
    return "the only turn" if found.a.turns == 1 else f"all {found.a.turns:,} turns"


def _turn_range(turns: list[TurnDiff]) -> str:
    first, last = turns[0].turn, turns[-1].turn
    return f"turn {first}" if first == last else f"turns {first}–{last}"


def _listed(numbers: list[int]) -> str:
    """`turn 3`, or `turns 3, 5, 6 and 8 more`."""
    if len(numbers) == 1:
        return f"turn {numbers[0]}"
    if len(numbers) > 4:
        return f"turns {', '.join(map(str, numbers[:3]))} and {len(numbers) - 3} more"
    return f"turns {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _count(number: int, noun: str) -> str:
    plural = "" if number == 1 or noun == "more" else "s"
    return f"{number:,} {noun}{plural}"
