"""Runs as a transcript database of Inspect Scout."""

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokentape.recorder import Recording
from tokentape.recorder.paths import expand_path
from tokentape.store.copies.exported_run import exported_runs
from tokentape.store.copies.extras import needing
from tokentape.store.errors import StoreError
from tokentape.store.source import Attachments

if TYPE_CHECKING:
    from inspect_scout import Transcript


def export_scout(
    recordings: Iterable[Recording], attached: Attachments, folder: Path | str
) -> list[Path]:
    """Add runs to a transcript database of Inspect Scout, and return its Parquet files.

    The folder may hold a database already, also one of other programs: a transcript that it has,
    by the id of the run, stays as it is. `attached` supplies the verdicts; usually it is the store
    of the runs. Raise MissingLibraryError without inspect_scout, and StoreError if there is no run,
    or if the folder cannot be written to.

    Example:
        >>> import tokentape as tt
        >>> files = tt.export_scout([store.recording(run_id)], store, tmp_path / "transcripts")
        >>> from inspect_scout import transcripts_from
        >>> len({path.name for path in files})
        1
    """
    folder = expand_path(folder)
    with needing("inspect_scout", "inspect_ai", extra="scout", what="an export to Inspect Scout"):
        import inspect_scout  # noqa: F401

        from tokentape.store.copies.scout_transcripts import transcript_of
    found = [*{each.run_id: each for each in recordings}.values()]
    if not found:
        raise StoreError("there is no run to export")
    transcripts = (transcript_of(each, attached) for each in exported_runs(found))
    try:
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is a file: name a folder for the transcripts")
        folder.mkdir(parents=True, exist_ok=True)
        # A loop of its own: the caller may be within another one, as in a notebook. Scout prints
        # the ids of transcripts.
        with ThreadPoolExecutor(1) as thread, redirect_stdout(StringIO()):
            thread.submit(lambda: asyncio.run(_insert(transcripts, folder))).result()
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error}") from None
    return sorted(folder.rglob("*.parquet"))


async def _insert(transcripts: "Iterator[Transcript]", folder: Path) -> None:
    from inspect_scout import transcripts_db

    database: Any = transcripts_db(str(folder))
    async with database:
        await database.insert(transcripts)
