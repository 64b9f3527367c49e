"""Forged runs: each text field of each kind of event with commands, markup and lone surrogates."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.hostile import TextField, text_fields
from tests.replay.view.documents import through_json
from tokentape.recorder import Record
from tokentape.replay.view.document import view_document

TAPE = Path(__file__).parents[2] / "recordings" / "0.2.0.tape"


@pytest.fixture(scope="module")
def runs() -> list[tuple[tt.Recording, list[Record]]]:
    store = tt.open_store(TAPE)
    recordings = [store.recording(each.run_id) for each in store.summaries()]
    own = [each for each in recordings if each.forked() is None]
    return [(each, list(each.read())) for each in own]


def _forged(record: Record, field: TextField) -> Record:
    if record.kind != field.kind:
        return record
    body: dict[str, Any] = (
        dict(record.body) if isinstance(record.body, Mapping) else json.loads(record.body)
    )
    return replace(record, body=json.dumps(field.filled(body, keep=False)))


@pytest.mark.parametrize("field", text_fields(), ids=lambda field: field.mark)
def test_a_forged_field_gives_a_document_or_one_clear_error(
    runs: list[tuple[tt.Recording, list[Record]]], field: TextField
) -> None:
    for recording, records in runs:
        forged = [_forged(each, field) for each in records]
        stranger = replace(
            recording,
            read=lambda forged=forged: iter(forged),
            select=None,
            read_sampled_ids=None,
            read_tokens=None,
        )
        try:
            document = view_document(stranger)
        except tt.RecordingError:
            continue
        assert through_json(document)["kind"] == "run"
