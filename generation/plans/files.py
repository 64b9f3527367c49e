"""Protocols as files: YAML, with documents beside it, or behind a name of those shipped."""

import os
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tokentape.generation.errors import PromptError
from tokentape.generation.plans.fields import Place, text
from tokentape.generation.plans.plan import ExperimentPlan

_MERGED = ("background", "limits", "sampling")
_FILE_BYTES_MAX = 4 * 1024**2
_DEPTH_MAX = 8


def shipped_plans() -> tuple[ExperimentPlan, ...]:
    """The protocols that come with tokentape, by name."""
    return tuple(load_plan(name) for name in _shipped_names())


def load_plan(name: str | os.PathLike[str]) -> ExperimentPlan:
    """A shipped protocol by its name, or one in a YAML file.

    A file may begin with `extends: NAME_OR_PATH`: what it does not say is taken from there;
    background, limits and sampling are merged field by field. Documents are files, too, named
    relative to the one that names them. Raises PromptError: file, field, and what is allowed.
    """
    path = _path(os.fspath(name), Path())
    return ExperimentPlan.read(_fields(path, ()), str(path))


def _fields(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """The fields of a file on top of those of the one that it extends."""
    place = Place(str(path))
    if path.resolve() in below or len(below) >= _DEPTH_MAX:
        place.at("extends").refuse("comes back to a file that extends this one, or goes too deep")
    own = _parsed(path)
    background = own.get("background")
    if isinstance(background, dict) and isinstance(background.get("document"), str):
        own["background"] = background | {"document": _document(background["document"], path)}
    if "extends" not in own:
        return own
    base_name = text(own.pop("extends"), place.at("extends"))
    if "name" not in own:
        place.at("name").refuse("is missing: it is not taken from the protocol that is extended")
    base_path = _path(base_name, path.parent, place.at("extends"))
    base = _fields(base_path, (*below, path.resolve()))
    # Its own mistakes are named by its own file.
    ExperimentPlan.read(base, str(base_path))
    merged = {
        field: {**base.get(field, {}), **own[field]}
        for field in _MERGED
        if isinstance(own.get(field), dict)
    }
    return {**base, **own, **merged}


def _parsed(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(_text_of(path))
    except yaml.YAMLError as error:
        raise PromptError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{path} is not YAML that can be read: {error}") from None
    if not isinstance(value, dict):
        raise PromptError(f"{path} is no protocol: it has no fields such as name and tasks")
    return value


def _document(name: str, path: Path) -> dict[str, str]:
    file = path.parent / name
    try:
        return {"name": Path(name).stem, "text": _text_of(file)}
    except PromptError as error:
        Place(str(path)).at("background").at("document").refuse(f"cannot be had: {error}")


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > _FILE_BYTES_MAX:
            raise PromptError(f"{path} has more than {_FILE_BYTES_MAX:,} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise PromptError(f"cannot read {path}: {reason}") from None


def _path(name: str, folder: Path, place: Place | None = None) -> Path:
    """Where a protocol is: a shipped one by its bare name, any other beside the file naming it."""
    if name in _shipped_names():
        return _shipped_folder() / f"{name}.yaml"
    path = folder / Path(name).expanduser()
    if path.is_file():
        return path
    known = ", ".join(_shipped_names())
    refused = f"{name!r} is no protocol: not one of {known}, nor a YAML file"
    if place is not None:
        place.refuse(f"is nothing to begin with: {refused}")
    raise PromptError(refused)


def _shipped_folder() -> Path:
    return Path(str(resources.files("tokentape.generation.plans")))


def _shipped_names() -> list[str]:
    return sorted(path.stem for path in _shipped_folder().glob("*.yaml"))
