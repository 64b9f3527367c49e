"""Logs of Inspect as conversations without tokens."""

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokentape.recorder.codec import dump_canonical
from tokentape.recorder.limits import expanded_bytes_max, oversize
from tokentape.recorder.regular_file import open_regular
from tokentape.store.copies.conversations import ForeignConversation
from tokentape.store.copies.extras import needing
from tokentape.store.errors import StoreError

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample

_HEADERS = ("header.json", "_journal/start.json")
_HEAD_BYTES = 4_096


def is_inspect_log(path: Path) -> bool:
    """Return whether a file is a log of Inspect, by its first bytes or the names in its zip."""
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
        if head.startswith(b"PK"):
            try:
                with zipfile.ZipFile(file) as archive:
                    names = set(archive.namelist())
            except (NotImplementedError, OSError, ValueError, zipfile.BadZipFile):
                return False
            return any(each in names for each in _HEADERS)
    text = head.lstrip()
    return text.startswith(b"{") and all(
        each in text for each in (b'"version"', b'"status"', b'"eval"', b'"eval_id"')
    )


class InspectLog:
    """The samples of a log, read one after the other; a log in JSON is read whole.

    Raise MissingLibraryError without inspect_ai.
    """

    def __init__(self, path: Path, where: str = "") -> None:
        self._path = path
        self.where = where or str(path)
        with needing("inspect_ai", extra="inspect", what="a log of Inspect"):
            import inspect_ai.log  # noqa: F401
        self._form: Any = "eval" if _is_zip(path) else "json"

    def __iter__(self) -> Iterator[ForeignConversation]:
        """Yield each sample. Raise StoreError if the log or a sample cannot be read."""
        from inspect_ai.log import (
            read_eval_log,
            read_eval_log_sample,
            read_eval_log_sample_summaries,
        )

        if self._form == "eval":
            self._check_sizes()
        name = str(self._path)
        with self._reading("the log"):
            log = read_eval_log(
                name, header_only=self._form == "eval", resolve_attachments=True, format=self._form
            )
        if self._form == "json":
            for sample in log.samples or ():
                yield self._conversation(log, sample)
            return
        with self._reading("the list of samples"):
            summaries = read_eval_log_sample_summaries(name, format=self._form)
        for each in summaries:
            with self._reading(f"sample {each.id!r} of epoch {each.epoch}"):
                sample = read_eval_log_sample(
                    name, id=each.id, epoch=each.epoch, resolve_attachments=True, format=self._form
                )
            yield self._conversation(log, sample)

    def _check_sizes(self) -> None:
        """Raise StoreError for an entry whose content takes far more memory than the file."""
        limit = expanded_bytes_max(self._path.stat().st_size)
        with self._reading("the zip"), zipfile.ZipFile(self._path) as archive:
            for each in archive.infolist():
                fault = oversize(f"its entry {each.filename!r:.80}", each.file_size, limit)
                if fault:
                    raise StoreError(f"{self.where}: {fault}")

    def _conversation(self, log: "EvalLog", sample: "EvalSample") -> ForeignConversation:
        from tokentape.store.copies.inspect_conversations import (
            foreign_messages,
            metadata_of_sample,
        )

        with self._reading(f"sample {sample.id!r} of epoch {sample.epoch}"):
            messages = foreign_messages(sample)
            metadata = metadata_of_sample(log, sample)
            said = [each.model_dump(mode="json", exclude_none=True) for each in sample.messages]
            identity = [log.eval.eval_id, sample.id, sample.epoch, sample.uuid, said]
            content = dump_canonical(identity).encode("utf-8", "surrogatepass")
        return ForeignConversation(
            format="inspect",
            source=self._path.name,
            content_sha256=hashlib.sha256(content).hexdigest(),
            messages=messages,
            name=f"{log.eval.task}/{sample.id}",
            model=log.eval.model,
            sample=str(sample.id),
            created=str(sample.started_at or log.eval.created or ""),
            metadata=metadata,
        )

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Raise StoreError for what Inspect raises when it reads a damaged log.

        That are errors of zip files, of compression, of JSON and of pydantic.
        """
        try:
            yield
        except (GeneratorExit, StoreError):
            raise
        except Exception as error:
            why = " ".join(str(error).split())[:300]
            raise StoreError(
                f"{self.where}: cannot read {what}: {type(error).__name__}: {why}"
            ) from None


def _is_zip(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(2) == b"PK"
