"""Load plans: those shipped with tokentape, and YAML files with documents next to them."""

import os
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tokentape.generation.errors import PromptError
from tokentape.generation.plans.plan import ExperimentPlan
from tokentape.generation.plans.yaml_text import load_yaml
from tokentape.recorder.foreign_files import pointer_file
from tokentape.recorder.near_names import nearest
from tokentape.recorder.paths import expand_path, is_inside, is_relative
from tokentape.recorder.regular_file import read_text

_MERGED = ("background", "limits", "sampling")
_FILE_BYTES_MAX = 4 * 1024**2
_DEPTH_MAX = 8


def shipped_plans() -> tuple[ExperimentPlan, ...]:
    """Return the plans that come with tokentape, ordered by name."""
    return tuple(load_plan(name) for name in _shipped_names())


def load_plan(name: str | os.PathLike[str]) -> ExperimentPlan:
    """Return a shipped plan by its name, or the plan in a YAML file.

    A file may begin with `extends: NAME_OR_PATH` and overrides fields of that plan; background,
    limits and sampling are merged field by field. `background.document` is the path of a text file.
    Paths are relative to the file that has them, and stay in the folder of the file that the caller
    names. So does `tools_file`, which is not run here. Raise PromptError with the file, the field
    and the rule.
    """
    path = _path(os.fspath(name), Path())
    return ExperimentPlan.read(_fields(path, path.parent, ()), str(path))


def plan_tools_path(name: str | os.PathLike[str], plan: ExperimentPlan) -> Path | None:
    """Return the Python file with tools that the plan loaded from `name` has; None without one."""
    if plan.tools_file is None:
        return None
    return _path(os.fspath(name), Path()).parent / plan.tools_file


def _fields(path: Path, folder: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    """Return a file's fields merged over those of the plan that it extends.

    Every other file is in `folder`. `extending` are the files that extend this one, to detect a
    circle.
    """
    if path.resolve() in extending or len(extending) >= _DEPTH_MAX:
        _reject(path, "extends", "leads back to a file that extends this one, or goes too deep")
    fields = _parsed(path)
    background = fields.get("background")
    if isinstance(background, dict) and isinstance(background.get("document"), str):
        fields["background"] = background | {
            "document": _document(background["document"], path, folder)
        }
    if isinstance(fields.get("tools_file"), str):
        fields["tools_file"] = _tools_file(fields["tools_file"], path, folder)
    if "extends" not in fields:
        return fields
    base_name = fields.pop("extends")
    if not isinstance(base_name, str):
        _reject(path, "extends", "must be the name of a plan or the path of a file")
    if "name" not in fields:
        _reject(path, "name", "is missing: a plan does not get the name of the plan it extends")
    base_path = _extended(base_name, path, folder)
    base_folder = base_path.parent if base_name in _shipped_names() else folder
    base = _fields(base_path, base_folder, (*extending, path.resolve()))
    # Checked alone first, so that its mistakes are reported with its own file.
    ExperimentPlan.read(base, str(base_path))
    merged = {
        field: {**base.get(field, {}), **fields[field]}
        for field in _MERGED
        if isinstance(fields.get(field), dict)
    }
    return {**base, **fields, **merged}


def _parsed(path: Path) -> dict[str, Any]:
    try:
        value = load_yaml(_text_of(path))
    except yaml.YAMLError as error:
        raise PromptError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(value, dict):
        raise PromptError(f"{path} is not a plan: it has no fields such as name and tasks")
    return value


def _tools_file(name: str, path: Path, folder: Path) -> str:
    """Return the path of a file with tools within `folder`."""
    _check_stays_inside(name, "tools_file", path, folder)
    file = path.parent / name
    if not file.is_file():
        _reject(path, "tools_file", f"is not a file: {name!r}")
    return Path(os.path.relpath(file, folder)).as_posix()


def _document(name: str, path: Path, folder: Path) -> dict[str, str]:
    _check_stays_inside(name, "background.document", path, folder)
    try:
        return {"name": Path(name).stem, "text": _text_of(path.parent / name)}
    except PromptError as error:
        _reject(path, "background.document", f"cannot be loaded: {error}")


def _text_of(path: Path) -> str:
    try:
        pointer = pointer_file(path)
        if pointer:
            raise PromptError(f"{path} {pointer}")
        return read_text(path, _FILE_BYTES_MAX)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise PromptError(f"cannot read {path}: {reason}") from None


def _extended(name: str, path: Path, folder: Path) -> Path:
    """Return the file of the plan that the file `path` extends."""
    if name not in _shipped_names():
        _check_stays_inside(name, "extends", path, folder)
    try:
        return _path(name, path.parent)
    except PromptError as error:
        _reject(path, "extends", f"has no plan: {error}")


def _check_stays_inside(name: str, field: str, path: Path, folder: Path) -> None:
    """Raise PromptError if a field of the file `path` names a file that is not in `folder`.

    A plan may come from a stranger, and the texts that it names go into prompts and recordings.
    """
    if folder == _shipped_folder():  # an installation may consist of links
        return
    if not is_relative(name) or not is_inside(path.parent / name, folder):
        _reject(path, field, f"names a file outside the folder {folder}: {name!r}; copy it there")


def _path(name: str, folder: Path) -> Path:
    """Return the file of a shipped plan, or of a path relative to `folder`."""
    if name in _shipped_names():
        return _shipped_folder() / f"{name}.yaml"
    path = folder / expand_path(name)
    if path.is_file():
        return path
    near = nearest(name, [*_shipped_names(), *_plans_in(path.parent)])
    raise PromptError(
        f"{name!r} is neither a shipped plan ({', '.join(_shipped_names())}) nor a file{near}"
    )


def _plans_in(folder: Path) -> list[str]:
    """Return the paths of the YAML files in a folder; none of one that cannot be read."""
    try:
        return [str(each) for each in folder.iterdir() if each.suffix in (".yaml", ".yml")]
    except (OSError, ValueError):
        return []


def _reject(path: Path, field: str, rule: str) -> NoReturn:
    raise PromptError(f"{path}: {field} {rule}")


def _shipped_folder() -> Path:
    return Path(str(resources.files("tokentape.generation.plans")))


def _shipped_names() -> list[str]:
    return sorted(path.stem for path in _shipped_folder().glob("*.yaml"))
