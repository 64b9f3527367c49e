"""Two recordings side by side, as a JSON document; see docs/view-document.md."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tokentape.recorder import Recording
from tokentape.recorder.projections import Turn, iterate_turns
from tokentape.replay.reports.diff_report import headline
from tokentape.replay.results.json_fields import UnequalField
from tokentape.replay.run_diff.diff import compare_outlines
from tokentape.replay.run_diff.diff_types import (
    ComparedRun,
    Pair,
    PromptDifference,
    TextSource,
    ToolDifference,
    TurnDiff,
)
from tokentape.replay.run_diff.run_outline import RunOutline, outline_run
from tokentape.replay.view.alignment import Aligner
from tokentape.replay.view.filter_settings import FilterSettings
from tokentape.replay.view.json_values import HEAD, json_value
from tokentape.replay.view.round_events import EventsByRound
from tokentape.replay.view.token_columns import TokenColumns, columns_of
from tokentape.replay.view.viewed_turns import ViewedTurn, viewed_turns
from tokentape.replay.view.vocabulary import Vocabulary


def diff_document(recording_a: Recording, recording_b: Recording) -> dict[str, Any]:
    """Return two recordings, and where they differ, as plain JSON values.

    The differences are those of `diff`. Replies are aligned by their token ids. Raise
    RecordingError if events of a run contradict each other, and NothingToReplayError if neither run
    has a turn.
    """
    outlines = Pair(outline_run(recording_a), outline_run(recording_b))
    found = compare_outlines(outlines.a, outlines.b)
    a, b = _viewed(outlines.a), _viewed(outlines.b)
    vocabulary = Vocabulary(recording_a)
    other = Vocabulary(recording_b)
    vocabulary.add(other)
    redacted = found.a.redacted or found.b.redacted
    divergent, inside = found.first_divergent_turn, found.first_turn_changed_inside
    aligner = Aligner()
    return {
        **HEAD,
        "kind": "diff",
        "a": _run(outlines.a, found.a),
        "b": _run(outlines.b, found.b),
        "same": found.same,
        "settings": _fields(found.started),
        "ended": _fields(found.ended),
        "noted": _fields(found.noted),
        "summary": headline(found),
        "first_divergent_turn": None if divergent is None else divergent.turn,
        "first_turn_changed_inside": None if inside is None else inside.turn,
        "vocabulary": vocabulary.values(),
        "tokens_a": _columns(outlines.a, a).packed(),
        "tokens_b": _columns(outlines.b, b).packed(),
        "turns": [
            _turn(each, Pair(a.get(each.turn), b.get(each.turn)), vocabulary)
            | {"alignment": _alignment(aligner, a.get(each.turn), b.get(each.turn), redacted)}
            for each in found.turns
        ],
    }


def _viewed(outline: RunOutline) -> dict[int, ViewedTurn]:
    """Return the turns of a run by number."""
    rounds = list(map(_without_prompt, iterate_turns(outline.envelopes)))
    events = EventsByRound.of(outline.envelopes).rounds
    return {each.number: each for each in viewed_turns(outline.run_id, rounds, events)}


def _without_prompt(turn: Turn) -> Turn:
    """Return a round without its prompt, unless the settings depend on it: prompts are long."""
    settings = FilterSettings.of(turn.started)
    if settings.has_penalty or settings.exclusions:
        return turn
    return replace(turn, prompt_ids=(), prompt_text="")


def _columns(outline: RunOutline, turns: dict[int, ViewedTurn]) -> TokenColumns:
    return columns_of(list(turns.values()), outline.started)


def _run(outline: RunOutline, compared: ComparedRun) -> dict[str, Any]:
    started = outline.started
    parent = {
        "run_id": compared.parent_run_id,
        "turn": compared.forked_at_turn,
        "token": compared.forked_at_token,
    }
    return {
        "run_id": compared.run_id,
        "name": compared.name,
        "model": compared.model,
        "status": compared.status,
        "seed": json_value(started.seed),
        "dtype": started.dtype,
        "device": started.device,
        "attention": started.attention_kernel,
        "started_at_us": outline.envelopes[0].at_us,
        "where": compared.where,
        "turns": compared.turns,
        "tokens": compared.tokens,
        "redacted": compared.redacted,
        "tokentape_version": started.tokentape_version,
        "parent": None if compared.parent_run_id is None else parent,
        "other_model": list(compared.other_model),
    }


def _turn(
    found: TurnDiff, sides: Pair[ViewedTurn | None], vocabulary: Vocabulary
) -> dict[str, Any]:
    numbers = found.numbers
    return {
        "turn": found.turn,
        "begun": found.begun,
        "same": found.same,
        "differing": list(found.differing),
        "only_in": found.only_in,
        "inside_model": _fields(found.inside_model),
        "sampling": _fields(found.sampling),
        "cache": _fields(found.cache),
        "tools": [_tool(each) for each in found.tools],
        "activations": _fields(found.activations),
        "prompt": None if found.prompt is None else _prompt(found.prompt, vocabulary),
        "ending": _fields(() if found.reply is None else found.reply.fields),
        "first_step": None if found.reply is None else found.reply.step,
        "logprob_difference_max": None if numbers is None else json_value(numbers.difference_max),
        "a": None if sides.a is None else _side(sides.a),
        "b": None if sides.b is None else _side(sides.b),
    }


def _prompt(found: PromptDifference, vocabulary: Vocabulary) -> dict[str, Any]:
    text = found.text
    return {
        "index": found.index,
        "token_a": vocabulary.token(found.ids.a),
        "token_b": vocabulary.token(found.ids.b),
        "tokens_a": found.tokens.a,
        "tokens_b": found.tokens.b,
        "before": "" if text is None else text.before,
        "a": "" if text is None else text.a,
        "b": "" if text is None else text.b,
        "inherited": found.inherited,
        "source_a": _source(found.sources.a),
        "source_b": _source(found.sources.b),
        "fields": _fields(found.fields),
    }


def _source(source: TextSource | None) -> dict[str, Any] | None:
    if source is None:
        return None
    return {"role": source.role, "turn": source.turn, "message": source.message}


def _tool(found: ToolDifference) -> dict[str, Any]:
    return {
        "call": found.call,
        "names": [found.names.a, found.names.b],
        "only_in": found.only_in,
        "fields": _fields(found.fields),
    }


def _fields(fields: Iterable[UnequalField]) -> list[dict[str, Any]]:
    return [
        {
            "field": each.field,
            "a": json_value(each.a),
            "b": json_value(each.b),
            "missing_in": each.missing_in,
        }
        for each in fields
    ]


def _side(viewed: ViewedTurn) -> dict[str, Any]:
    turns = [each.turn for each in viewed.rounds]
    texts = [each.reply_text for each in turns]
    return {
        "first_token": viewed.first_token,
        "tokens": viewed.end_token - viewed.first_token,
        "user": "\n\n".join(_asked(turns[0])),
        "text": None if texts[-1] is None else "".join(each or "" for each in texts),
        "stop_reason": None if turns[-1].finished is None else str(turns[-1].finished.stop_reason),
    }


def _asked(turn: Turn) -> list[str]:
    """Return the messages of a turn that are no results of tools."""
    return [each.content for each in turn.messages if each.tool_call_id is None]


def _alignment(
    aligner: Aligner, a: ViewedTurn | None, b: ViewedTurn | None, redacted: bool
) -> list[list[Any]]:
    """Return the pieces of two replies by rows within the turn; none where ids are not recorded."""
    if a is None or b is None or redacted:
        return []
    one, other = (
        [token.token_id for each in viewed.rounds for token in each.turn.tokens]
        for viewed in (a, b)
    )
    return [list(each) for each in aligner.align(one, other)]
