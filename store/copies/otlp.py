"""Runs as traces of OpenTelemetry: to a collector, or to a file of OTLP in JSON."""

import base64
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tokentape.recorder import Recording
from tokentape.recorder.atomic_write import atomic_write
from tokentape.recorder.paths import expand_path
from tokentape.recorder.regular_file import check_not_special
from tokentape.store.copies.exported_run import exported_runs
from tokentape.store.copies.extras import needing
from tokentape.store.errors import StoreError
from tokentape.store.source import Attachments

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_SPANS_A_REQUEST = 100
_TIMEOUT_S = 10.0
_PATH = "/v1/traces"
_LOGGER = "opentelemetry"


def export_otlp(
    recordings: Iterable[Recording],
    attached: Attachments,
    *,
    endpoint: str | None = None,
    path: Path | str | None = None,
    content: bool = False,
) -> int:
    """Send runs as traces to an OTLP collector over HTTP, or write them to a file of OTLP in JSON.

    Return the number of spans: one for each run, for each call of the model and for each call of a
    tool. Their ids are made from those of the runs, so exporting a run again gives the same trace.
    Texts are left out unless `content`; tokens stay in the store, which an attribute names.
    `attached` supplies the verdicts; usually it is the store of the runs. To an `endpoint` without
    a path, `/v1/traces` is added; the environment variables of OpenTelemetry's exporter, such as
    `OTEL_EXPORTER_OTLP_HEADERS`, apply. Raise MissingLibraryError without opentelemetry, and
    StoreError if a collector does not take the spans or the file cannot be written.

    Example:
        >>> import tokentape as tt
        >>> tt.export_otlp([store.recording(run_id)], store, path=tmp_path / "spans.jsonl")
        5
    """
    if (endpoint is None) == (path is None):
        raise StoreError("name an endpoint or a file to export spans to, one of them")
    with needing("opentelemetry", "google", extra="otel", what="an export of spans"):
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401

        from tokentape.store.copies.otlp_spans import spans_of
    spans = (
        span
        for run in exported_runs(recordings)
        for span in spans_of(run, attached.verdicts(run.run_id), content=content)
    )
    if endpoint is not None:
        return _send(_batches(spans), _url_of(endpoint))
    assert path is not None
    return _write(_batches(spans), expand_path(path))


def _batches(spans: "Iterator[ReadableSpan]") -> "Iterator[list[ReadableSpan]]":
    while batch := list(islice(spans, _SPANS_A_REQUEST)):
        yield batch


def _url_of(endpoint: str) -> str:
    """Return the URL of the collector. Raise StoreError for one that is not of HTTP."""
    try:
        parts = urlsplit(endpoint)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_http = False
    if not is_http:
        raise StoreError(
            f"{endpoint!r} is not the URL of a collector, such as http://localhost:4318"
        )
    return endpoint.rstrip("/") + _PATH if parts.path in ("", "/") else endpoint


def _send(batches: "Iterable[list[ReadableSpan]]", url: str) -> int:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    exporter = OTLPSpanExporter(endpoint=url, timeout=_TIMEOUT_S)
    sent = 0
    try:
        for batch in batches:
            with _logged() as messages:
                result = exporter.export(batch)
            if result is not SpanExportResult.SUCCESS:
                why = f": {messages[0]}" if messages else ""
                raise StoreError(f"{url} did not take the spans ({sent:,} were sent){why}")
            sent += len(batch)
    finally:
        exporter.shutdown()
    return sent


@contextmanager
def _logged() -> Iterator[list[str]]:
    """Yield the messages that OpenTelemetry logs in the block, in place of their usual way."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(" ".join(record.getMessage().split()))

    logger, collector = logging.getLogger(_LOGGER), Collector(logging.WARNING)
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield messages
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagated


def _write(batches: "Iterable[list[ReadableSpan]]", path: Path) -> int:
    written = 0
    try:
        check_not_special(path)
        _check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_write(path, durable=True) as tmp_path,
            tmp_path.open("w", encoding="utf-8", newline="\n") as file,
        ):
            for batch in batches:
                file.write(_line(batch))
                written += len(batch)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error}") from None
    return written


def _check_replaceable(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb") as file:
        if file.read(16) == b'{"resourceSpans"':
            return
    raise StoreError(
        f"{path} exists and is not an export of spans: move it away, or choose another name"
    )


def _line(spans: "Sequence[ReadableSpan]") -> str:
    """Return spans as a line of OTLP in JSON, in which ids are hexadecimal."""
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    message: Any = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
    for resource in message["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for holder in (span, *span.get("links", ())):
                    _spell_ids(holder)
    return json.dumps(message, separators=(",", ":")) + "\n"


def _spell_ids(holder: dict[str, Any]) -> None:
    for name in ("traceId", "spanId", "parentSpanId"):
        if name in holder:
            holder[name] = base64.b64decode(holder[name]).hex()
