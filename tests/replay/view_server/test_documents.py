"""What the pages of a server fetch: runs that grow or are erased, lists, payloads."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import tokentape as tt
from tests.replay.made_family import fork, root
from tests.replay.made_talk import Said, turn_events
from tests.replay.view_server.conftest import TURNS, Served
from tests.store.made_families import RESUMED
from tests.tampering import without_triggers
from tokentape.recorder import Recorder


def test_the_list_has_the_newest_runs_first_and_fulfils_the_conditions(served: Served) -> None:
    found = served.json("/api/runs")

    assert [each["run_id"] for each in found["runs"]] == served.run_ids[::-1]
    assert (found["kind"], found["count"]) == ("runs", 2)
    assert served.json("/api/runs?said=defg")["count"] == 1
    assert served.json("/api/runs?name=zzz")["runs"] == []
    assert served.json("/api/runs?status=finished")["count"] == 0
    assert len(served.json("/api/runs?last=1")["runs"]) == 1
    served.store.tag(served.run_ids[0], "kept")
    assert served.json("/api/runs?tag=kept")["runs"][0]["tags"] == ["kept"]


def test_a_fork_is_listed_with_the_numbers_of_its_own_turns_as_the_terminal_says(
    served: Served, cli: Callable[..., tuple[int, str, str]]
) -> None:
    parent = root(served.store, TURNS)
    for at_turn in (1, 2):
        fork(served.store, parent, at_turn, TURNS[1:])
    late, early, *_ = served.json("/api/runs")["runs"]

    _, out, _ = cli("list", "--store", served.store.where)
    *_, printed_early, printed_late = out.splitlines()

    assert [early["has_shared_turns"], late["has_shared_turns"]] == [False, True]
    assert (late["turns"], late["tokens"]) == (1, 4)
    assert " 1 own " in printed_late
    assert printed_late.rstrip().endswith(" 4 own")
    assert " own" not in printed_early


@pytest.mark.parametrize("query", ["status=odd", "since=yesterday-ish", "until=%FF"])
def test_a_condition_that_cannot_be_read_is_a_sentence(served: Served, query: str) -> None:
    status, _, body = served.request(f"/api/runs?{query}")

    assert (status, set(json.loads(body))) == (422, {"error"})


def test_a_run_that_has_not_changed_has_no_new_document(served: Served) -> None:
    path = f"/api/run/{served.run_ids[0]}"
    version = served.json(path)["served"]["version"]

    assert served.request(f"{path}?version={version}")[0] == 204
    assert served.request(f"{path}?version=other")[0] == 200


def test_a_run_grows_while_it_is_recorded_and_only_new_tokens_travel(served: Served) -> None:
    run_id = served.run_ids[0]
    shown = served.json(f"/api/run/{run_id}")
    first = shown["tokens"]["count"]
    log = Recorder.resume(served.store, served.store.recording(run_id))
    log.record(RESUMED)
    stream = "Be kind. " + "".join(f"{each.asked}:{each.reply}" for each in TURNS)
    for event in turn_events(3, Said(asked="six", reply="hijklm"), stream):
        log.record(event)

    version = shown["served"]["version"]
    grown = served.json(f"/api/run/{run_id}?tokens_from={first}&version={version}")

    assert (grown["tokens"]["first"], grown["tokens"]["count"]) == (first, 6)
    assert [each["turn"] for each in grown["turns"]] == [1, 2, 3]


def test_an_erased_run_is_a_sentence_that_says_so(served: Served) -> None:
    run_id = served.run_ids[0]
    served.store.erase(run_id, reason="private")

    status, _, body = served.request(f"/api/run/{run_id}?version=1.0.running")

    assert status == 404
    assert "was erased" in json.loads(body)["error"]
    assert served.request(f"/api/run/{served.run_ids[1]}")[0] == 200


def test_a_damaged_run_is_a_sentence_and_the_list_still_shows_it(served: Served) -> None:
    where = served.store.where.removeprefix("sqlite:///")
    with sqlite3.connect(where) as connection, without_triggers(connection):
        connection.execute("UPDATE events SET body = '[' WHERE kind = 'TurnStarted'")
    connection.close()

    status, _, body = served.request(f"/api/run/{served.run_ids[0]}")

    assert status == 422
    assert json.loads(body)["error"]
    assert served.json("/api/runs")["count"] == 2
    assert served.lines == []


def test_two_runs_are_compared(served: Served) -> None:
    a, b = served.run_ids
    found = served.json(f"/api/diff?a={a}&b={b}")

    assert (found["kind"], found["a"]["run_id"], found["b"]["run_id"]) == ("diff", a, b)
    assert f'data-source="/api/diff?a={a}&amp;b={b}"' in served.request(f"/diff?a={a}&b={b}")[2]
    for query in ("", f"?a={a}", f"?a={a}&b=", f"?a={a}&b=%3Cscript%3E"):
        assert served.request(f"/diff{query}")[0] == 400
    assert served.request(f"/api/diff?a={a}&b=nope")[0] == 404


@pytest.mark.parametrize("first", ["-1", "x", "1e9", "99999999999999999999", "%00"])
def test_a_place_that_is_no_number_is_refused(served: Served, first: str) -> None:
    assert served.request(f"/api/run/{served.run_ids[0]}?tokens_from={first}")[0] == 400


def test_a_place_after_the_last_token_gives_no_tokens(served: Served) -> None:
    assert served.json(f"/api/run/{served.run_ids[0]}?tokens_from=9999")["tokens"]["count"] == 0


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"<script>alert(1)</script>", {"text": "<script>alert(1)</script>", "note": ""}),
        (b"\xff\xfe\x00", {"text": "", "note": "binary, 3 bytes"}),
    ],
)
def test_a_payload_is_text_or_a_note(
    served: Served, payload: bytes, expected: dict[str, Any]
) -> None:
    sha256 = "ab" * 32
    served.store.put_blob(sha256, payload)

    assert served.json(f"/api/run/{served.run_ids[0]}/payload/{sha256}") == expected
    assert served.request(f"/api/run/{served.run_ids[0]}/payload/{'cd' * 32}")[0] == 422


def test_the_texts_of_a_stranger_are_json_that_is_no_markup(served: Served) -> None:
    status, headers, body = served.request("/api/runs?name=%3Cscript%3E")

    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body)["query"] == {"name": "<script>"}


def test_a_sealed_copy_is_served_too(
    served: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("sealed")
    tt.export_parquet(served.store.recording(served.run_ids[0]), served.store, folder)
    sealed: Any = tt.open_store(folder)
    replaced = replace(served, store=sealed)
    replaced.serve()

    assert replaced.json("/api/runs")["count"] == 1
    path = f"/api/run/{served.run_ids[0]}"
    shown = replaced.json(path)
    assert shown["turns"]
    assert replaced.request(f"{path}?version={shown['served']['version']}")[0] == 204
