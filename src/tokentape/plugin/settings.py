"""The settings of the plugin: options and ini file combined, checked before anything runs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tokentape.plugin.printable import printable

MODES = ("rebuild", "verify", "retrace", "regenerate")
# As in `tokentape.replay.results.fingerprint_names`, which the process of pytest does not import.
FINGERPRINTS = (
    "weights",
    "adapters",
    "config",
    "model_code",
    "tokenizer",
    "template",
    "device",
    "dtype",
    "random_stream",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to replay which tapes."""

    roots: tuple[Path, ...]
    """Absolute paths of tapes, and of folders with tapes at any depth."""
    model: str
    mode: str
    update: bool
    ignore: tuple[str, ...]
    floor: str
    allow_drift: bool
    html: str
    """The folder for reports, an absolute path; empty for none."""

    def covers(self, path: Path) -> bool:
        """Return whether a path is one of the roots or below one."""
        return any(path == root or root in path.parents for root in self.roots)


def read_settings(config: pytest.Config) -> Settings:
    """Return the settings. Raise pytest.UsageError for a combination that cannot be replayed."""
    given: list[str] = config.getoption("tapes") or []
    if "" in given:
        raise pytest.UsageError("--tapes: the path is empty")
    here = config.invocation_params.dir
    roots = [here / os.path.expanduser(each) for each in given] or _configured_tapes(config)
    mode = config.getoption("tape_mode") or config.getini("tape_mode")
    if mode not in MODES:
        raise pytest.UsageError(f"tape_mode: one of {', '.join(MODES)}, not {mode!r}")
    settings = Settings(
        roots=tuple(_existing(Path(os.path.abspath(root))) for root in roots),
        model=configured_model(config),
        mode=mode,
        update=bool(config.getoption("tape_update")),
        ignore=_ignored(config),
        floor=_floor(config),
        allow_drift=bool(config.getoption("tape_allow_drift") or config.getini("tape_allow_drift")),
        html=_html(config),
    )
    if mode == "rebuild":
        _check_rebuild(config)
    if settings.update:
        _check_update(settings)
    return settings


def _ignored(config: pytest.Config) -> tuple[str, ...]:
    given = tuple(config.getoption("tape_ignore") or config.getini("tape_ignore"))
    for name in given:
        if name not in FINGERPRINTS:
            raise _refused(f"tape_ignore: one of {', '.join(FINGERPRINTS)}, not {name!r}")
    return given


def add_to_arguments(config: pytest.Config, settings: Settings) -> None:
    """Add the roots to the arguments of pytest, unless an argument already covers them.

    Roots of the command line are always added, those of the ini file only if no argument is given:
    `pytest tests/test_one.py` must not replay every recording.
    """
    has_arguments = config.args_source is pytest.Config.ArgsSource.ARGS
    if has_arguments and not config.getoption("tapes"):
        return
    here = config.invocation_params.dir
    named = [Path(os.path.abspath(here / each.split("::")[0])) for each in config.args]
    for root in settings.roots:
        if not any(root == path or path in root.parents or root in path.parents for path in named):
            config.args.append(str(root))


def has_tapes(folder: Path) -> bool:
    """Return whether a folder has a tape at any depth, outside of hidden folders."""
    return any(
        not any(part.startswith(".") for part in path.relative_to(folder).parts)
        for path in folder.rglob("*.tape")
    )


def _configured_tapes(config: pytest.Config) -> list[Path]:
    """Return the paths of the ini file, which pytest has joined to its folder; `~` is expanded."""
    folder = _relative_to_ini(config, "")
    tapes: list[Path] = config.getini("tapes")
    return [
        folder / os.path.expanduser(os.path.relpath(each, folder)) if "~" in str(each) else each
        for each in tapes
    ]


def _existing(root: Path) -> Path:
    if not root.exists():
        raise _refused(f"--tapes: there is no {root}")
    if root.is_dir() and not has_tapes(root):
        raise _refused(f"--tapes: {root} has no *.tape file")
    for path in root.rglob("*") if root.is_dir() else (root,):
        # pytest writes the names of files as they are.
        if path.name != printable(path.name) and (path.is_dir() or path.suffix == ".tape"):
            raise _refused(f"--tapes: rename {path}: its name has characters that cannot be seen")
    if not root.is_dir() and root.suffix != ".tape":
        raise _refused(f"--tapes: {root} is neither a folder nor a *.tape file")
    return root


def _refused(message: str) -> pytest.UsageError:
    return pytest.UsageError(printable(message))


def configured_model(config: pytest.Config) -> str:
    """Return the model of the command line or of the ini file; empty for the recorded ones."""
    given: str | None = config.getoption("tape_model")
    if given is not None:
        return given
    configured: str = config.getini("tape_model")
    folder = _relative_to_ini(config, configured)
    return str(folder) if configured and folder.exists() else configured


def _floor(config: pytest.Config) -> str:
    given: str | None = config.getoption("tape_floor")
    configured: str = config.getini("tape_floor")
    if given is None and not configured:
        return ""
    if given is None:
        path = _relative_to_ini(config, configured)
    else:
        path = config.invocation_params.dir / os.path.expanduser(given)
    if not path.is_file():
        raise _refused(f"--tape-floor: there is no file {path}")
    return str(path)


def _html(config: pytest.Config) -> str:
    given: str | None = config.getoption("tape_html")
    if given is None:
        return ""
    folder = Path(os.path.abspath(config.invocation_params.dir / os.path.expanduser(given)))
    if not given or (folder.exists() and not folder.is_dir()):
        raise _refused(f"--tape-html: {given!r} is not a folder")
    return str(folder)


def _check_rebuild(config: pytest.Config) -> None:
    """Raise pytest.UsageError for an option of the command line that changes nothing here."""
    for name in ("tape_ignore", "tape_floor", "tape_allow_drift", "tape_html"):
        if config.getoption(name):
            option = f"--{name.replace('_', '-')}"
            raise pytest.UsageError(
                f"{option} has no effect with --tape-mode=rebuild, which compares no numbers: "
                "leave one of them out"
            )


def _relative_to_ini(config: pytest.Config, path: str) -> Path:
    ini: Any = config.inipath
    folder = config.rootpath if ini is None else Path(ini).parent
    return folder / os.path.expanduser(path)


def _check_update(settings: Settings) -> None:
    if settings.mode == "rebuild":
        raise pytest.UsageError(
            "--tape-update needs the model, which --tape-mode=rebuild does not load"
        )
    check_not_in_ci()


def check_not_in_ci() -> None:
    """Raise pytest.UsageError for an update of tapes in CI."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise pytest.UsageError(
            "--tape-update: CI is set in the environment, where recordings are checked and not "
            "rewritten; `CI= pytest --tape-update …` updates them anyway"
        )
