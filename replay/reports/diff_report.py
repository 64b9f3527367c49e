"""Plain-text rendering of a `Diff`."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any

from tokentape.recorder.escapes import quoted, single_line, visible
from tokentape.replay.reports.diff_texts import (
    are_spelled,
    first_words,
    sampled_texts,
    text_lines,
)
from tokentape.replay.reports.tones import Line, Tone, with_verdict_last
from tokentape.replay.results.json_fields import UnequalField, excerpt, first_unequal_index
from tokentape.replay.run_diff.diff_types import (
    ComparedRun,
    Diff,
    NumberDifferences,
    PromptDifference,
    ReplyDifference,
    SampledToken,
    TextSource,
    TurnDiff,
)

_FIELDS_SHOWN = 8
_VALUE_CHARS = 60
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA256_CHARS = 12
_TOKEN_COLUMNS = 40


def headline(found: Diff) -> str:
    """Return one line: where the two runs diverge, and how."""
    if found.same:
        return f"the same in {_all_turns(found)}, {_count(found.a.tokens, 'token')}"
    divergent, inside = found.first_divergent_turn, found.first_turn_changed_inside
    if inside is not None and (divergent is None or inside.turn <= divergent.turn):
        field = inside.inside_model[0]
        return f"inside the model in turn {inside.turn}: {_inside_text(field)}; {_outcome(found)}"
    return _outcome(found)


def _outcome(found: Diff) -> str:
    """Return where prompts and replies diverge, and how."""
    divergent = found.first_divergent_turn
    if divergent is None:
        others = "; ".join(_other_differences(found))
        return f"same prompts and replies in {_all_turns(found)}" + (
            f"; {others}" if others else ""
        )
    earlier = [turn.turn for turn in found.turns if turn.turn < divergent.turn]
    before = f"same prompts and replies up to turn {earlier[-1]}; " if earlier else ""
    return before + _divergence(found, divergent)


def render(found: Diff, turns: Collection[int] = ()) -> str:
    """Return the differences as text.

    The requested turns are shown in full, or, if none are requested, all turns up to the first that
    diverges; other turns that differ take one line each. A long text ends with its first line
    again.
    """
    return "\n".join(text for text, _ in render_lines(found, turns))


def render_lines(found: Diff, turns: Collection[int] = ()) -> list[Line]:
    """Return the lines of `render`, each with its tone."""
    lines = [headline(found), *_run("a", found.a), *_run("b", found.b)]
    if found.a.redacted or found.b.redacted:
        lines.append("  a redactor removed ids: only texts and numbers are compared")
    lines += _fields("started differently", found.started)
    lines += _fields("ended differently", found.ended)
    lines += _fields("noted", found.noted)
    divergent = found.first_divergent_turn
    last = divergent.turn if divergent is not None else None
    for same, group in groupby(found.turns, key=lambda turn: turn.same):
        members = list(group)
        if same and not turns:
            lines.append(f"{_turn_range(members)}  the same")
            continue
        for turn in members:
            in_full = turn.turn in turns if turns else last is None or turn.turn <= last
            lines += _turn(turn) if in_full else ([] if turns else [_turn_summary(turn)])
    lines += _timing(found, turns)
    first: Line = (single_line(lines[0]), "good" if found.same else "bad")
    others = ((single_line(each), _side_tone(each)) for each in lines[1:])
    return with_verdict_last([first, *others], [first])


def _side_tone(line: str) -> Tone:
    """Return the tone of a line, which may show one side of a difference."""
    sides: dict[str, Tone] = {"    a  ": "a", "    b  ": "b"}
    return sides.get(line[:7], "plain")


def _divergence(found: Diff, turn: TurnDiff) -> str:
    if turn.only_in:
        if not turn.begun:
            return f"after it only {turn.only_in} continues"
        count = sum(each.only_in == turn.only_in for each in found.turns)
        return f"only {turn.only_in} has turn {turn.turn}" + (
            f" and {_count(count - 1, 'more')}" if count > 1 else ""
        )
    prompt, reply = turn.prompt, turn.reply
    if prompt is not None and (prompt.ids_differ or prompt.message is not None):
        return f"turn {turn.turn} reads {_prompt_summary(prompt)}"
    assert reply is not None
    if reply.step is None:
        assert reply.text is not None
        return f"turn {turn.turn} has another text: {first_words(reply.text)}"
    words = sampled_texts(reply.sampled)
    if reply.text is not None and not are_spelled(reply.sampled):
        words = first_words(reply.text)
    return f"turn {turn.turn} diverges at token {reply.step}{_forced_in(reply)}: {words}"


def _forced_in(reply: ReplyDifference) -> str:
    """Return in which of the runs the experimenter chose the token that differs."""
    sampled = (("a", reply.sampled.a), ("b", reply.sampled.b))
    runs = [side for side, token in sampled if token is not None and token.forced]
    return f", chosen in {' and '.join(runs)}" if runs else ""


def _prompt_summary(prompt: PromptDifference) -> str:
    if prompt.message is not None:
        source = prompt.message.sources.a or prompt.message.sources.b
        text = prompt.message.text
        words = first_words(text) if text else "the same text with another role, tool call or ids"
        return f"another {_message(source)}: {words}"
    if prompt.text is None:
        if prompt.index is None:
            return f"a prompt of {prompt.tokens.a:,} / {prompt.tokens.b:,} tokens"
        return f"the same text in other tokens, from id {prompt.index} on"
    source = prompt.sources.a or prompt.sources.b
    origin = f" ({_origin(source)})" if source is not None else ""
    return f"another prompt{origin}: {first_words(prompt.text)}"


def _other_differences(found: Diff) -> Iterator[str]:
    """Yield what differs although prompts and replies are equal."""
    numbers = next((t for t in found.turns if t.numbers and t.numbers.step is not None), None)
    if numbers is not None and numbers.numbers is not None:
        largest = max(t.numbers.difference_max for t in found.turns if t.numbers)
        differ = f"differ by {largest:.2g} at most" if largest else "equal before the processors"
        place = f"turn {numbers.turn}, token {numbers.numbers.step}"
        yield f"other numbers from {place} on, log-probabilities {differ}"
    for name, text in _OTHER.items():
        turns = [turn for turn in found.turns if name in turn.differing]
        if turns:
            yield f"{text} in {_listed([turn.turn for turn in turns])}"
    if found.started:
        yield f"started differently: {', '.join(visible(each.field) for each in found.started[:4])}"
    if found.ended:
        yield f"ended differently: {_pair(found.ended[-1])}"


_OTHER = {
    "prompt": "another history",
    "reply": "another end",
    "sampling": "other sampling",
    "cache": "another cache decision",
    "activations": "other activations",
    "tools": "other tool calls",
}


def _turn(turn: TurnDiff) -> Iterator[str]:
    """Yield the lines of a turn in full."""
    if turn.only_in:
        yield f"turn {turn.turn}  only in {turn.only_in}"
        return
    yield f"turn {turn.turn}" + ("" if turn.begun else "  (not begun)")
    yield from _inside_model(turn.inside_model)
    yield from _fields("sampling differs", turn.sampling)
    for each in turn.tools:
        names = dict.fromkeys(visible(name) for name in (each.names.a, each.names.b) if name)
        only_in = f", only in {each.only_in}" if each.only_in else ""
        yield from _fields(f"tool call {each.call}: {' / '.join(names)}{only_in}", each.fields)
    if turn.prompt is not None:
        yield from _prompt(turn.prompt)
    yield from _fields("cache differs", turn.cache)
    yield from _fields("observed activations differ", turn.activations)
    if turn.reply is not None:
        yield from _reply(turn.reply)
    if turn.numbers is not None:
        yield from _numbers(turn.numbers)


def _inside_model(fields: Sequence[UnequalField]) -> Iterator[str]:
    """Yield a heading and a line for each difference inside the model, if it has any."""
    if fields:
        yield "  inside the model differs"
    for each in fields:
        yield f"    {_inside_text(each)}"


def _inside_text(each: UnequalField) -> str:
    """Return a difference inside the model in a line; an intervention of one run with its rule."""
    value = each.b if each.missing_in == "a" else each.a
    name = each.field.partition("intervention.")[2]
    if not (name and each.missing_in and isinstance(value, dict) and "kind" in value):
        return _pair(each)
    only_in = "b" if each.missing_in == "a" else "a"
    parts = [f"{value['kind']} in {', '.join(value['layers'])}"]
    if value["coefficient"] is not None:
        parts.append(f"coefficient {value['coefficient']:g}")
    spans = [
        f"from {start} on" if end is None else f"{start}–{end - 1}"
        for start, end in value.get("acts_on", ())
    ]
    where = ", ".join(spans[:_FIELDS_SHOWN]) + (", …" if len(spans) > _FIELDS_SHOWN else "")
    parts.append(f"positions {value['positions']}" + (f" ({where})" if where else ""))
    return f"intervention {visible(name)} only in {only_in}: {visible(', '.join(parts))}"


def _turn_summary(turn: TurnDiff) -> str:
    if turn.only_in:
        return f"turn {turn.turn}  only in {turn.only_in}"
    inherited = turn.prompt is not None and turn.prompt.inherited
    names = [
        "prompt (of earlier turns)"
        if name == "prompt" and inherited
        else name.replace("inside_model", "inside the model")
        for name in turn.differing
    ]
    return f"turn {turn.turn}  {', '.join(names)}"


def _prompt(prompt: PromptDifference) -> Iterator[str]:
    yield f"  prompt: {_prompt_summary(prompt)}"
    if prompt.index is not None:
        origins = [
            f"{'end' if source is None else f'id {id_}, {_origin(source)}'}"
            for source, id_ in ((prompt.sources.a, prompt.ids.a), (prompt.sources.b, prompt.ids.b))
        ]
        yield f"    from id {prompt.index} on: {' / '.join(origins)}"
    if prompt.tokens.a != prompt.tokens.b:
        yield f"    {prompt.tokens.a:,} / {prompt.tokens.b:,} tokens"
    message = prompt.message
    text = message.text if message is not None and message.text else prompt.text
    yield from text_lines(text) if text else ()
    yield from _fields("history of the prompt", prompt.fields)


def _reply(reply: ReplyDifference) -> Iterator[str]:
    if reply.step is None:
        yield f"  reply: the same {reply.tokens.a:,} tokens"
    else:
        yield f"  reply: diverges at token {reply.step}, of {_lengths(reply)}"
        yield f"    a  {_sampled(reply.sampled.a, 'b')}"
        yield f"    b  {_sampled(reply.sampled.b, 'a')}"
    yield from text_lines(reply.text) if reply.text else ()
    yield from _fields("end of the reply", reply.fields)


def _lengths(reply: ReplyDifference) -> str:
    return f"{reply.tokens.a:,} / {reply.tokens.b:,}"


def _sampled(token: SampledToken | None, other: str) -> str:
    if token is None:
        return "has ended"
    given = "" if token.other_logprob is None else f", that of {other} {token.other_logprob:.4f}"
    forced = ", chosen by the experimenter" if token.forced else ""
    text = f" {quoted(token.text, _TOKEN_COLUMNS)}" if token.text else ""
    return f"id {token.token_id}{text}, log-probability {token.logprob:.4f}{given}{forced}"


def _numbers(numbers: NumberDifferences) -> Iterator[str]:
    if not numbers.compared:
        return
    compared = f"  numbers of {_count(numbers.compared, 'token')}"
    if numbers.step is None:
        yield f"{compared}: equal"
        return
    if numbers.difference_max:
        yield (
            f"{compared}: log-probabilities differ by {numbers.difference_max:.2g} at most, "
            f"{numbers.difference_mean:.2g} on average"
        )
    else:
        yield f"{compared}: log-probabilities equal before the processors"
    yield from _fields(f"from token {numbers.step}", numbers.fields)


def _timing(found: Diff, turns: Collection[int]) -> list[str]:
    """Return one line with the ratios of durations over the turns that both runs have."""
    shown = [t for t in found.turns if t.begun and not t.only_in and (not turns or t.turn in turns)]
    parts = []
    for what in ("turn", "prefill", "token", "tools"):
        pairs = [(d.a, d.b) for t in shown for d in t.timing if d.what == what]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        a, b = (sum(side) for side in zip(*known, strict=True)) if known else (0.0, 0.0)
        if a:
            parts.append(f"{what} {b / a:.2f}")
    return [f"time of b over a: {', '.join(parts)}"] if parts else []


def _run(side: str, run: ComparedRun) -> Iterator[str]:
    """Yield the line of a run, then the parent of a fork, and the status if it did not finish."""
    turns = f"{_count(run.turns, 'turn')}, {_count(run.tokens, 'token')}"
    yield f"  {side}  {run.run_id}  {visible(run.name)}  {turns}  {visible(run.where)}"
    if run.parent_run_id is not None:
        parent = visible(run.parent_run_id)
        token = "" if run.forked_at_token is None else f", token {run.forked_at_token}"
        other = ", ".join(map(visible, run.other_model))
        model = f", with another model ({other})" if other else ""
        yield f"     forked from run {parent} at turn {run.forked_at_turn}{token}{model}"
    if run.status != "finished":
        yield f"     {visible(run.status)}"


def _fields(heading: str, fields: Collection[UnequalField]) -> Iterator[str]:
    """Yield a heading and one line for each field; nothing if there are no fields."""
    if fields or heading.startswith("tool"):
        yield f"  {heading}"
    for index, each in enumerate(fields):
        if index == _FIELDS_SHOWN:
            yield f"    … {len(fields) - index} more; --json has all"
            return
        yield f"    {_pair(each)}"


def _pair(each: UnequalField) -> str:
    sides = [
        "(none)" if each.missing_in == side else _value(value, (each.a, each.b))
        for side, value in (("a", each.a), ("b", each.b))
    ]
    return f"{visible(each.field)}: {' / '.join(sides)}"


def _value(value: Any, both: tuple[Any, Any]) -> str:
    """Return a value as JSON; of a long one an excerpt around the first difference."""
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return f"{value[:_SHA256_CHARS]}…"
    text = _json(value)
    if len(text) <= _VALUE_CHARS:
        return visible(text)
    start = max(0, first_unequal_index(*map(_json, both)) - _VALUE_CHARS // 3)
    return visible(excerpt(text, start, _VALUE_CHARS))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _message(source: TextSource | None) -> str:
    if source is None or source.role == "system":
        return "system prompt"
    if source.tool_call_id is not None:
        return f"result of {visible(source.tool_call_id)}"
    return f"{visible(source.role)} message"


def _origin(source: TextSource) -> str:
    if source.role == "assistant":
        return f"reply of turn {source.turn}"
    if source.role == "template":
        return f"template of turn {source.turn}"
    return _message(source) + ("" if source.role == "system" else f" of turn {source.turn}")


def _all_turns(found: Diff) -> str:
    return "the only turn" if found.a.turns == 1 else f"all {found.a.turns:,} turns"


def _turn_range(turns: list[TurnDiff]) -> str:
    first, last = turns[0].turn, turns[-1].turn
    return f"turn {first}" if first == last else f"turns {first}–{last}"


def _listed(numbers: list[int]) -> str:
    """Return such as `turn 3`, or `turns 3, 5, 6 and 8 more`."""
    if len(numbers) == 1:
        return f"turn {numbers[0]}"
    if len(numbers) > 4:
        return f"turns {', '.join(map(str, numbers[:3]))} and {len(numbers) - 3} more"
    return f"turns {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _count(number: int, noun: str) -> str:
    plural = "" if number == 1 or noun == "more" else "s"
    return f"{number:,} {noun}{plural}"
