"""Runs as spans of OpenTelemetry, received by a collector and read from a file."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.integrations.conftest import VERDICT_US
from tokentape.recorder.events import TurnFinished, TurnStarted
from tokentape.store import DatabaseStore

REASON = "the extra `otel` is not installed"
pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter", reason=REASON)
service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=REASON
)
known = pytest.importorskip(
    "opentelemetry.semconv._incubating.attributes.gen_ai_attributes", reason=REASON
)

TEXTS = {
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
}


class Collector:
    """A collector in this process: it keeps the requests that it is sent."""

    def __init__(self, status: int = 200) -> None:
        self.requests: list[Any] = []
        self.paths: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.paths.append(self.path)
                outer.requests.append(service.ExportTraceServiceRequest.FromString(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> "Collector":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


def attributes(holder: Any) -> dict[str, Any]:
    """Return the attributes of a span or an event by name."""
    found = {}
    for each in holder.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return found


def operations(spans: list[Any]) -> list[str]:
    return [attributes(each)["gen_ai.operation.name"] for each in spans]


def test_a_run_is_a_trace_of_its_calls(
    runs: DatabaseStore, recordings: list[tt.Recording], collector: Collector
) -> None:
    sent = tt.export_otlp(recordings[:1], runs, endpoint=collector.url)
    spans = collector.spans()
    (root,) = [each for each in spans if not each.parent_span_id]

    assert collector.paths == ["/v1/traces"]
    assert sent == len(spans) == 6
    assert sorted(operations(spans)) == [
        *["chat"] * 3,
        *["execute_tool"] * 2,
        "invoke_agent",
    ]
    assert {each.trace_id.hex() for each in spans} == {recordings[0].run_id.replace("-", "")}
    assert {each.parent_span_id for each in spans if each is not root} == {root.span_id}
    assert len({each.span_id for each in spans}) == 6


def test_times_and_tokens_of_a_round_are_those_of_the_recording(
    runs: DatabaseStore, recordings: list[tt.Recording], collector: Collector
) -> None:
    tt.export_otlp(recordings[:1], runs, endpoint=f"{collector.url}/v1/traces")
    chats = [
        each for each in collector.spans() if attributes(each)["gen_ai.operation.name"] == "chat"
    ]
    events = list(recordings[0].events())
    starts = [each for each in events if isinstance(each.event, TurnStarted)]
    ends = [each for each in events if isinstance(each.event, TurnFinished)]

    assert collector.paths == ["/v1/traces"]
    assert [each.start_time_unix_nano for each in chats] == [each.at_us * 1000 for each in starts]
    assert [each.end_time_unix_nano for each in chats] == [each.at_us * 1000 for each in ends]
    first = attributes(chats[0])
    assert first["gen_ai.usage.output_tokens"] == 4
    assert first["gen_ai.usage.input_tokens"] == starts[0].event.prompt_tokens  # type: ignore[union-attr]
    assert (first["gen_ai.request.temperature"], first["gen_ai.request.seed"]) == (0.8, 3)
    assert first["gen_ai.response.finish_reasons"] == ["length"]
    assert "gen_ai.request.temperature" not in attributes(chats[1])


def test_texts_are_sent_on_request_only(
    runs: DatabaseStore, recordings: list[tt.Recording], collector: Collector
) -> None:
    tt.export_otlp(recordings, runs, endpoint=collector.url)
    without = collector.requests[:]
    collector.requests.clear()
    tt.export_otlp(recordings[:1], runs, endpoint=collector.url, content=True)

    for text in ("naïve", "Be kind", "about a", "So."):
        assert all(text.encode() not in each.SerializeToString() for each in without)
    names = {name for each in collector.spans() for name in attributes(each)}
    assert names >= TEXTS
    last = attributes(collector.spans()[3])
    given = json.loads(last["gen_ai.input.messages"])
    assert [each["role"] for each in given] == [
        *("system", "user", "tool", "assistant", "user", "assistant", "tool")
    ]
    assert given[5]["parts"][1]["name"] == "look_up"
    assert given[6]["parts"][0]["type"] == "tool_call_response"
    (said,) = json.loads(last["gen_ai.output.messages"])
    assert said == {
        "role": "assistant",
        "parts": [{"type": "text", "content": "So."}],
        "finish_reason": "stop",
    }


def test_every_name_is_one_of_the_conventions_or_our_own(
    runs: DatabaseStore, recordings: list[tt.Recording], collector: Collector
) -> None:
    tt.export_otlp(recordings, runs, endpoint=collector.url, content=True)
    conventions = {value for name, value in vars(known).items() if name.startswith("GEN_AI_")}
    spans = collector.spans()
    holders = [*spans, *(event for each in spans for event in each.events)]

    for holder in holders:
        for name in attributes(holder):
            assert name in conventions or name.startswith("tokentape.") or name == "error.type"


def test_a_verdict_is_an_evaluation_of_the_run(
    runs: DatabaseStore, recordings: list[tt.Recording], collector: Collector
) -> None:
    tt.export_otlp(recordings[1:2], runs, endpoint=collector.url)
    ((root, event),) = [(each, event) for each in collector.spans() for event in each.events]

    assert not root.parent_span_id
    assert (event.name, event.time_unix_nano) == ("gen_ai.evaluation.result", VERDICT_US * 1000)
    assert attributes(event)["gen_ai.evaluation.name"] == "verify"
    assert attributes(event)["gen_ai.evaluation.score.label"] == "verified"


def test_a_fork_has_its_own_rounds_and_a_link_to_its_parent(
    runs: DatabaseStore, recordings: list[tt.Recording], collector: Collector
) -> None:
    tt.export_otlp(recordings[:2], runs, endpoint=collector.url)
    roots = [each for each in collector.spans() if not each.parent_span_id]
    ((parent, fork),) = [tuple(roots)]
    (link,) = fork.links

    assert (link.trace_id, link.span_id) == (parent.trace_id, parent.span_id)
    of_fork = [each for each in collector.spans() if each.trace_id == fork.trace_id]
    assert operations(of_fork) == ["invoke_agent", "chat"]


def test_a_run_that_failed_is_an_error(
    runs: DatabaseStore, recordings: list[tt.Recording], collector: Collector
) -> None:
    tt.export_otlp(recordings[2:], runs, endpoint=collector.url)
    root, cut_off = collector.spans()

    assert (root.status.code, cut_off.status.code) == (2, 2)
    assert attributes(root)["error.type"] == "RuntimeError"
    assert cut_off.end_time_unix_nano > cut_off.start_time_unix_nano


def test_the_link_of_a_span_leads_to_its_tokens(
    runs: DatabaseStore, recordings: list[tt.Recording], collector: Collector
) -> None:
    tt.export_otlp(recordings[:1], runs, endpoint=collector.url)
    span = attributes(collector.spans()[1])

    with tt.open_store(span["tokentape.store"]) as store:
        tokens = tt.tokens_df(store, span["tokentape.run.id"], turns=span["tokentape.turn"])
    assert len(tokens) == span["gen_ai.usage.output_tokens"]


def test_a_file_has_the_same_spans_each_time(
    runs: DatabaseStore, recordings: list[tt.Recording], collector: Collector, tmp_path: Path
) -> None:
    path = tmp_path / "spans.jsonl"
    tt.export_otlp(recordings, runs, path=path)
    first = path.read_bytes()
    tt.export_otlp(recordings, runs, path=path)
    tt.export_otlp(recordings, runs, endpoint=collector.url)

    assert path.read_bytes() == first
    written = [
        (span["traceId"], span["spanId"], span.get("parentSpanId", ""), span["name"])
        for line in first.decode().splitlines()
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert written == [
        (each.trace_id.hex(), each.span_id.hex(), each.parent_span_id.hex(), each.name)
        for each in collector.spans()
    ]


def test_many_spans_are_sent_in_several_requests(
    runs: DatabaseStore,
    recordings: list[tt.Recording],
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tokentape.store.copies.otlp._SPANS_A_REQUEST", 4)

    assert tt.export_otlp(recordings[:1], runs, endpoint=collector.url) == 6
    assert len(collector.requests) == 2


def test_a_collector_that_refuses_is_an_error_in_one_line(
    runs: DatabaseStore, recordings: list[tt.Recording], capfd: pytest.CaptureFixture[str]
) -> None:
    with Collector(status=400) as refusing, pytest.raises(tt.StoreError) as caught:
        tt.export_otlp(recordings, runs, endpoint=refusing.url)

    assert "did not take the spans" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://host", "http://", "http://[", ""])
def test_an_endpoint_that_is_no_url_is_refused(
    endpoint: str, runs: DatabaseStore, recordings: list[tt.Recording]
) -> None:
    with pytest.raises(tt.StoreError, match="is not the URL of a collector"):
        tt.export_otlp(recordings, runs, endpoint=endpoint)


def test_another_file_is_not_replaced(
    runs: DatabaseStore, recordings: list[tt.Recording], tmp_path: Path
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine", encoding="utf-8")

    with pytest.raises(tt.StoreError, match="is not an export of spans"):
        tt.export_otlp(recordings, runs, path=path)

    assert path.read_text(encoding="utf-8") == "mine"
