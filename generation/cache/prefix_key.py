"""The user's key, which signs the files of a prefix folder."""

import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from tokentape.generation.cache_dir import cache_dir
from tokentape.recorder.atomic_write import TMP_PREFIX
from tokentape.recorder.paths import expand_path

KEY_VARIABLE = "TOKENTAPE_PREFIX_KEY"
"""The environment variable that names a key file, for machines that share a prefix folder."""
_KEY_BYTES = 32
_KEY_BYTES_MIN = 16
_KEY_BYTES_MAX = 4096


def prefix_key() -> bytes:
    """Return the key of this user: that of `KEY_VARIABLE`, or else of the user's cache folder.

    The latter is created on first use, readable by the user alone. Raise OSError if it cannot be
    read or written, if other users can read it, or if it is no key.
    """
    named = os.environ.get(KEY_VARIABLE)
    if named:
        return _read(expand_path(named))
    path = cache_dir() / "prefix-key"
    if not path.exists():
        _create(path)
    # Windows has no such bits: a folder of the user is closed to others.
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise OSError(f"other users can read the key {path}: delete it")
    return _read(path)


def signature(key: bytes, metadata: Mapping[str, str]) -> str:
    """Return the hexadecimal HMAC-SHA256 of a file's metadata, without its `signature`."""
    signed = {name: value for name, value in metadata.items() if name != "signature"}
    return hmac.new(key, json.dumps(signed, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def signature_fault(metadata: Mapping[str, str]) -> str:
    """Return why the metadata are not signed with this user's key; empty if they are."""
    if not metadata.get("signature"):
        return "not_signed"
    try:
        expected = signature(prefix_key(), metadata)
    except OSError:
        return "no_key"
    is_equal = hmac.compare_digest(expected.encode(), metadata["signature"].encode())
    return "" if is_equal else "signed_by_another"


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise OSError(f"there is no key file {path}")
    with path.open("rb") as file:
        key = file.read(_KEY_BYTES_MAX + 1)
    if not _KEY_BYTES_MIN <= len(key) <= _KEY_BYTES_MAX:
        raise OSError(f"{path} is no key: it has {len(key)} bytes")
    return key


def _create(path: Path) -> None:
    """Write a new key, unless another process does so at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = path.with_name(f"{TMP_PREFIX}{uuid4().hex}")
    descriptor = os.open(tmp_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
        try:
            os.link(tmp_path, path)  # fails if it exists, where a rename would replace it
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            os.replace(tmp_path, path)
    finally:
        with suppress(FileNotFoundError):
            tmp_path.unlink()
