"""A recording as the JSON document that the page reads; see docs/view-document.md."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tokentape.recorder import Recording
from tokentape.replay.view.cache_values import cache_savings
from tokentape.replay.view.go_on import go_on_values
from tokentape.replay.view.highlights import highlights
from tokentape.replay.view.json_values import HEAD, json_value
from tokentape.replay.view.prompt_parts import AddedMessage
from tokentape.replay.view.round_events import EventsByRound
from tokentape.replay.view.run_reading import read_run
from tokentape.replay.view.run_values import run_values
from tokentape.replay.view.token_columns import columns_of
from tokentape.replay.view.tool_calls import Payloads, call_values
from tokentape.replay.view.tracks import activation_values, intervention_values
from tokentape.replay.view.turn_values import turn_values
from tokentape.replay.view.verdict_values import verdict_values
from tokentape.replay.view.viewed_turns import ViewedRound, viewed_turns
from tokentape.replay.view.vocabulary import Spell, Vocabulary
from tokentape.store.attachments import StoredVerdict
from tokentape.store.labels import Labels


def view_document(
    recording: Recording,
    *,
    verdicts: Sequence[StoredVerdict] = (),
    labels: Labels | None = None,
    lineage: Mapping[str, Any] | None = None,
    further_reports: Sequence[tuple[str, Mapping[str, Any]]] = (),
    tokens_from: int = 0,
    payloads: bool = True,
    spell: Spell | None = None,
) -> dict[str, Any]:
    """Return a recording as plain JSON values: what the page of `tokentape view` shows.

    `verdicts` are the stored ones of the run, the oldest first. `further_reports` are reports of
    other replays as `Report.to_dict` gives them, each with a label that says of what. `lineage` is
    what `tokentape show --tree --json` prints. The columns of tokens begin at row `tokens_from`,
    for a page that has the rows before it. Without `payloads` full results of tools are left out.
    `spell` returns the texts of ids that a running run has not recorded yet: they are recorded when
    a turn ends.

    Raise RecordingError if events are damaged or contradict each other.
    """
    read = read_run(recording)
    run = read.run
    events = EventsByRound.of(run.envelopes)
    turns = viewed_turns(run.run_id, run.turns, events.rounds)
    vocabulary = Vocabulary(recording)
    columns = columns_of(turns, run.started, table=read.tokens)
    if spell is not None and run.ended() is None and not run.started.redacted:
        vocabulary.complete(columns.ids(), partial(spell, run.started))
    full_results = Payloads(recording, payloads)
    rounds = [each for turn in turns for each in turn.rounds]
    activations, left_out = activation_values(run.envelopes, rounds)
    reports, problems = verdict_values(verdicts, further_reports, run, _row_by_step(rounds))
    return {
        **HEAD,
        "kind": "run",
        "run": run_values(read, labels or Labels()),
        "vocabulary": vocabulary.values(),
        "tokens": columns.packed(tokens_from),
        "turns": turn_values(
            turns,
            run_id=run.run_id,
            is_running=run.ended() is None,
            columns=columns,
            vocabulary=vocabulary,
            payloads=full_results,
        ),
        "pending": {
            "parts": [part for each in events.messages for part in _pending_parts(each)],
            "calls": list(call_values(events.exchanges, full_results)),
        },
        "cache": cache_savings(run.run_id, rounds, run.envelopes),
        "highlights": highlights(turns, columns),
        "activations": activations,
        "interventions": intervention_values(rounds),
        "lineage": json_value(lineage),
        "verdicts": reports,
        "go_on": go_on_values(run),
        "problems": [*problems, left_out] if left_out else problems,
        "served": None,
    }


def _row_by_step(rounds: Sequence[ViewedRound]) -> dict[tuple[int, int], int]:
    return {
        (each.turn.number, token.step): row
        for each in rounds
        for row, token in enumerate(each.turn.tokens, each.first_token)
    }


def _pending_parts(message: AddedMessage) -> list[dict[str, Any]]:
    return list(message.parts()) if message.text else [message.content_part()]
