"""Tapes that take far more memory than their size suggests; see `tests.store.hostile_files`."""

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.store.hostile_files import RUN_ID, SEALED, Maker, sealed

_MANIFEST = "manifest.json"
_ZEROS = 512 * 1024**2


def tape(folder: Path, name: str = "run.tape", **settings: Any) -> Path:
    """Write a tape of the files in a sealed folder, next to it, and return its path."""
    files = {
        each.relative_to(folder).as_posix(): each.read_bytes()
        for each in sorted(folder.rglob("*.parquet"))
        if each.is_file()
    }
    return write_tape(folder.with_name(name), files, **settings)


def write_tape(
    path: Path, files: Mapping[str, bytes], *, manifest: str = "", method: int = zipfile.ZIP_STORED
) -> Path:
    """Write a tape with these members and a manifest that lists them. Return its path."""
    listed = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    runs = [_run_of(content) for name, content in files.items() if name.startswith("runs/")]
    described = {"format": 1, "tokentape": "0", "runs": runs, "files": listed}
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(_MANIFEST, manifest or json.dumps(described))
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _run_of(content: bytes) -> dict[str, Any]:
    """Return a run as a manifest describes it; its metadata may be hostile."""
    found = {
        name.decode().removeprefix("tokentape."): value.decode()
        for name, value in pq.read_metadata(io.BytesIO(content)).metadata.items()
    }
    return {
        "run_id": RUN_ID,
        "last_seal": found["last_seal"],
        "events": int(found["events"]),
        "fingerprints": json.loads(found["fingerprints"]),
    }


def large_manifest(folder: Path) -> Path:
    """A manifest of 300 MB of spaces, deflated to 300 kB."""
    manifest = "{" + " " * 300_000_000 + "}"
    return write_tape(folder / "run.tape", {}, manifest=manifest, method=zipfile.ZIP_DEFLATED)


def wide_manifest(folder: Path) -> Path:
    """A manifest of 30,000,000 empty lists, deflated."""
    manifest = "[" + "[]," * 30_000_000 + "[]]"
    return write_tape(folder / "run.tape", {}, manifest=manifest, method=zipfile.ZIP_DEFLATED)


def deep_manifest(folder: Path) -> Path:
    """A manifest of 500,000 nested lists."""
    manifest = "[" * 500_000 + "]" * 500_000
    return write_tape(folder / "run.tape", {}, manifest=manifest, method=zipfile.ZIP_DEFLATED)


def deflated_member(folder: Path) -> Path:
    """An honest tape with a member of 512 MB of zeros that claims its size."""
    return _with_zeros(folder, _ZEROS)


def lying_member(folder: Path) -> Path:
    """An honest tape with a member of 512 MB of zeros that claims 1,000 bytes."""
    return _with_zeros(folder, 1_000)


def _with_zeros(folder: Path, claimed_bytes: int) -> Path:
    """Return a tape whose file of events is deflated zeros, `claimed_bytes` by its headers."""
    path = tape(sealed(folder / "sealed"))
    zeros = _deflated_zeros()
    name = f"events/schema=1/run_id={RUN_ID}/part-00000.parquet"
    with zipfile.ZipFile(path) as archive:
        files = {each: archive.read(each) for each in archive.namelist() if each != _MANIFEST}
        manifest = json.loads(archive.read(_MANIFEST))
    manifest["files"][name]["bytes"] = claimed_bytes
    files[name] = zeros
    write_tape(path, files, manifest=json.dumps(manifest))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        local, directory = archive.getinfo(name).header_offset, archive.start_dir
    entry = content.index(name.encode(), directory) - 46
    # The method, and the claimed size after that: an entry begins with one field more.
    for method, size in ((local + 8, local + 22), (entry + 10, entry + 24)):
        content[method : method + 2] = zipfile.ZIP_DEFLATED.to_bytes(2, "little")
        content[size : size + 4] = claimed_bytes.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    return path


def _deflated_zeros() -> bytes:
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1024**2)
    return b"".join([*(made.compress(block) for _ in range(_ZEROS // len(block))), made.flush()])


def other_method(folder: Path) -> Path:
    """An honest tape, compressed by bzip2."""
    return tape(sealed(folder / "sealed"), method=zipfile.ZIP_BZIP2)


def many_members(folder: Path) -> Path:
    """A tape of 60,000 members without content."""
    names = (f"events/schema=1/run_id={each}/part-00000.parquet" for each in range(60_000))
    return write_tape(folder / "run.tape", dict.fromkeys(names, b""))


def overlapping_members(folder: Path) -> Path:
    """A tape whose directory names one member of 5 MB a thousand times."""
    path = write_tape(folder / "run.tape", {"a" * 8: os.urandom(5 * 1024**2)})
    with zipfile.ZipFile(path) as archive:
        archive.NameToInfo.clear()
        last = archive.filelist[-1]
        start = archive.start_dir
    content = path.read_bytes()
    at = content.index(b"a" * 8, start) - 46
    entry = content[at : at + 46 + 8]
    assert last.filename == "a" * 8
    directory = content[start:at] + b"".join(
        entry[:46] + f"a{each:07}".encode() for each in range(1_000)
    )
    end = (
        b"PK\x05\x06"
        + bytes(4)
        + (1_001).to_bytes(2, "little") * 2
        + len(directory).to_bytes(4, "little")
        + start.to_bytes(4, "little")
        + bytes(2)
    )
    path.write_bytes(content[:start] + directory + end)
    return path


def _as_tape(make: Maker) -> Maker:
    def made(folder: Path) -> Path:
        return tape(make(folder / "sealed"))

    return made


_ONLY_FOLDERS = ("link_outside", "pipe_as_part")
TAPES: dict[str, Maker] = {
    f"{name}_in_a_tape": _as_tape(make)
    for name, make in SEALED.items()
    if name not in _ONLY_FOLDERS
} | {
    each.__name__: each
    for each in (
        large_manifest,
        wide_manifest,
        deep_manifest,
        deflated_member,
        lying_member,
        other_method,
        many_members,
        overlapping_members,
    )
}
