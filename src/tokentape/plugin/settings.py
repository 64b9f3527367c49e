"""What the options and the ini file ask for, made whole and checked before anything runs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MODES = ("rebuild", "verify", "regenerate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`roots` are absolute: folders with tapes somewhere in them, or tapes."""

    roots: tuple[Path, ...]
    model: str
    mode: str
    update: bool
    ignore: tuple[str, ...]
    floor: str
    allow_drift: bool

    def covers(self, path: Path) -> bool:
        return any(path == root or root in path.parents for root in self.roots)


def read_settings(config: pytest.Config) -> Settings:
    """Raises pytest.UsageError for what cannot be replayed as it is asked for."""
    given: list[str] = config.getoption("tapes") or []
    if "" in given:
        raise pytest.UsageError("--tapes: the path is empty")
    here = config.invocation_params.dir
    roots = [here / each for each in given] or config.getini("tapes")
    mode = config.getoption("tape_mode") or config.getini("tape_mode")
    if mode not in MODES:
        raise pytest.UsageError(f"tape_mode: one of {', '.join(MODES)}, not {mode!r}")
    settings = Settings(
        roots=tuple(_existing(Path(os.path.abspath(root))) for root in roots),
        model=_model(config),
        mode=mode,
        update=bool(config.getoption("tape_update")),
        ignore=tuple(config.getoption("tape_ignore") or config.getini("tape_ignore")),
        floor=_floor(config),
        allow_drift=bool(config.getoption("tape_allow_drift") or config.getini("tape_allow_drift")),
    )
    if settings.update:
        _refuse_update(settings)
    return settings


def add_to_arguments(config: pytest.Config, settings: Settings) -> None:
    """Have pytest collect what no argument leads to.

    Roots of the command line are added to other arguments, those of the ini file only where there
    are none: who asks for one test does not ask for every recording.
    """
    asked_for_others = config.args_source is pytest.Config.ArgsSource.ARGS
    if asked_for_others and not config.getoption("tapes"):
        return
    here = config.invocation_params.dir
    named = [Path(os.path.abspath(here / each.split("::")[0])) for each in config.args]
    for root in settings.roots:
        if not any(root == path or path in root.parents or root in path.parents for path in named):
            config.args.append(str(root))


def has_tapes(folder: Path) -> bool:
    """Whether there is one at any depth, outside of hidden folders."""
    return any(
        not any(part.startswith(".") for part in path.relative_to(folder).parts)
        for path in folder.rglob("*.tape")
    )


def _existing(root: Path) -> Path:
    if not root.exists():
        raise pytest.UsageError(f"--tapes: there is no {root}")
    if root.is_dir() and not has_tapes(root):
        raise pytest.UsageError(f"--tapes: {root} holds no *.tape file")
    if not root.is_dir() and root.suffix != ".tape":
        raise pytest.UsageError(f"--tapes: {root} is neither a folder nor a *.tape file")
    return root


def _model(config: pytest.Config) -> str:
    given: str | None = config.getoption("tape_model")
    if given is not None:
        return given
    configured: str = config.getini("tape_model")
    folder = _beside_ini(config, configured)
    return str(folder) if configured and folder.exists() else configured


def _floor(config: pytest.Config) -> str:
    given: str | None = config.getoption("tape_floor")
    configured: str = config.getini("tape_floor")
    if given is None and not configured:
        return ""
    if given is None:
        path = _beside_ini(config, configured)
    else:
        path = config.invocation_params.dir / given
    if not path.is_file():
        raise pytest.UsageError(f"--tape-floor: there is no file {path}")
    return str(path)


def _beside_ini(config: pytest.Config, path: str) -> Path:
    ini: Any = config.inipath
    return (config.rootpath if ini is None else Path(ini).parent) / path


def _refuse_update(settings: Settings) -> None:
    if settings.mode == "rebuild":
        raise pytest.UsageError(
            "--tape-update needs the model, and --tape-mode=rebuild does without one"
        )
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise pytest.UsageError(
            "--tape-update: CI is set in the environment, where recordings are judged and not "
            "rewritten; `CI= pytest --tape-update …` does it all the same"
        )
