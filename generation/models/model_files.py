"""The files of a model, looked at before they are loaded."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

from tokentape.generation.errors import ModelError
from tokentape.recorder.foreign_files import foreign_file
from tokentape.recorder.paths import is_inside, is_relative

_GGUF = ".gguf"
_GGUF_MAGIC = b"GGUF"
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
_LOADED = (".safetensors", ".bin", ".json", ".model", _GGUF)
"""Suffixes of the files that `from_pretrained` reads."""
_NAMING_FIELDS = {
    "config.json": ("configuration_files", "transformers_weights"),
    "tokenizer_config.json": ("fast_tokenizer_files",),
}
"""The fields of JSON files that name other files for transformers to read."""


def is_gguf(name: str | Path) -> bool:
    """Return whether a name is that of a GGUF file; capitals do not matter."""
    return str(name).lower().endswith(_GGUF)


def gguf_of_folder(folder: Path) -> Path | None:
    """Return the GGUF file of a folder that has no config, or None if it has none.

    Raise ModelError if it has several.
    """
    if (folder / "config.json").exists():
        return None
    found = sorted(each for each in folder.iterdir() if is_gguf(each) and each.is_file())
    if len(found) > 1:
        names = ", ".join(each.name for each in found)
        raise ModelError(f"{folder} has {len(found)} GGUF files: name one of them: {names}")
    return found[0] if found else None


def check_gguf(file: Path) -> None:
    """Raise ModelError for a file that is missing, foreign, a part, or no GGUF file."""
    _check_not_foreign(file)
    try:
        with file.open("rb") as opened:
            head = opened.read(len(_GGUF_MAGIC))
    except FileNotFoundError:
        raise ModelError(f"there is no GGUF file {file}") from None
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error}") from None
    if head != _GGUF_MAGIC:
        raise ModelError(f"{file} is not a GGUF file: it begins with {head!r}, not {_GGUF_MAGIC!r}")
    part = _PART.search(file.name)
    if part is not None and int(part[2]) > 1:
        raise ModelError(
            f"{file} is part {int(part[1])} of {int(part[2])} of a GGUF file, and transformers "
            "loads whole files only: join them with `llama-gguf-split --merge`"
        )


def check_folder(folder: Path) -> None:
    """Raise ModelError if a file of a model in this folder is empty, a pointer, or foreign.

    Raise it too if a file leads out of the folder; see `check_stays_inside`.
    """
    try:
        files = [each for each in sorted(folder.iterdir()) if each.suffix.lower() in _LOADED]
    except OSError as error:
        raise ModelError(f"the folder {folder} cannot be read: {error}") from None
    for each in files:
        if not each.is_dir():
            _check_not_foreign(each)
    check_stays_inside(folder)


def check_stays_inside(folder: Path) -> None:
    """Raise ModelError if the files of a model name weights or a chat template elsewhere.

    The weights that an index lists, and the files that a config names for a release of
    transformers, are in the folder. A chat template, whose text goes into every prompt, is not a
    link to a file elsewhere; in the cache of the hub, it is a link to the blobs of its repository.
    """
    for index in sorted(folder.glob("*.index.json")):
        listed = _json_object(index).get("weight_map")
        for name in sorted(set(map(str, listed.values()))) if isinstance(listed, dict) else ():
            if not is_relative(name) or ".." in PureWindowsPath(name).parts:
                raise ModelError(f"{index} lists weights outside its folder: {name!r}")
    for file, fields in _NAMING_FIELDS.items():
        described = _json_object(folder / file)
        for name in _texts([described.get(field) for field in fields]):
            if PureWindowsPath(name).name != name:
                raise ModelError(f"{folder / file} names a file outside its folder: {name!r}")
    folders = [folder]
    if folder.parent.name == "snapshots":
        folders.append(folder.parent.parent / "blobs")
    for template in _templates(folder):
        if not any(is_inside(template, each) for each in folders):
            raise ModelError(
                f"{template} is a link out of its folder, to {template.resolve()}: copy the file"
            )


def _json_object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty for any other, which `from_pretrained` reports."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _texts(values: Iterable[object]) -> Iterator[str]:
    """Yield the texts among values, and those in lists among them."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (each for each in value if isinstance(each, str))


def _templates(folder: Path) -> list[Path]:
    """Return the files of chat templates that transformers reads, as far as they exist."""
    found = [folder / "chat_template.jinja", folder / "chat_template.json"]
    found += sorted((folder / "additional_chat_templates").glob("*.jinja"))
    return [each for each in found if each.is_file()]


def _check_not_foreign(file: Path) -> None:
    fault = foreign_file(file)
    # A safetensors file begins with the length of a JSON header, which may be any bytes.
    if fault and not _begins_as_safetensors(file):
        raise ModelError(f"{file} {fault}")


def _begins_as_safetensors(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return file.suffix == ".safetensors" and opened.read(9)[8:] == b"{"
    except OSError:
        return False
