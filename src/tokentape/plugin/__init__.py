"""The pytest plugin: its options, the fixture `tape_model`, and hooks once recordings are given.

pytest imports this module in every environment that tokentape is installed in. It imports the
standard library and pytest only; replays run in a child process, which loads torch and pandas. A
test that plays a tape imports the rooms that read one, without torch, into its own process.
"""

from collections.abc import Iterator
from typing import Any

import pytest

_MODES = ("rebuild", "verify", "retrace", "regenerate")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and ini settings of tapes."""
    group = parser.getgroup("tapes", "recordings of language models (tokentape)")
    group.addoption(
        "--tapes",
        action="append",
        metavar="PATH",
        help="replay the *.tape files of this folder, or this file; may be repeated",
    )
    group.addoption(
        "--tape-model",
        metavar="MODEL",
        help="smollm2-demo, a folder, a GGUF file or a hub id; by default the recorded model",
    )
    group.addoption("--tape-mode", choices=_MODES, help="how to replay; default: verify")
    group.addoption(
        "--tape-update",
        action="store_true",
        help="record tapes again that do not pass, or that a test plays and differs from (refused "
        "if CI is set in the environment)",
    )
    group.addoption(
        "--tape-ignore",
        action="append",
        metavar="FIELD",
        help="a fingerprint that may differ, such as weights; may be repeated",
    )
    group.addoption(
        "--tape-floor", metavar="FILE", help="a noise floor written by `tokentape calibrate`"
    )
    group.addoption(
        "--tape-allow-drift",
        action="store_true",
        help="pass turns whose log-probabilities drifted but whose tokens are the same",
    )
    group.addoption(
        "--tape-html", metavar="DIR", help="write an HTML report about each replayed tape"
    )
    group.addoption(
        "--tape-playback",
        choices=("strict", "warn", "passthrough"),
        help="what the fixture tape_model does where a test asks for something else than its tape "
        "has: fail, warn, or ask the model; default: strict",
    )
    parser.addini("tapes", "folders or files of recordings, like --tapes", type="paths")
    parser.addini("tape_model", "like --tape-model; a folder is relative to this file", default="")
    parser.addini("tape_mode", "like --tape-mode", default="verify")
    parser.addini("tape_playback", "like --tape-playback", default="strict")
    parser.addini("tape_ignore", "like --tape-ignore", type="args")
    parser.addini("tape_floor", "like --tape-floor; relative to this file", default="")
    parser.addini("tape_allow_drift", "like --tape-allow-drift", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `tape`, and the hooks if recordings are given."""
    config.addinivalue_line(
        "markers",
        "tape(path, run=, mode=, rerun_tools=, all_used=): the tape that the fixture tape_model "
        "plays, relative to the test's file, and how",
    )
    named = bool(config.getoption("tapes") or config.getini("tapes"))
    if named:
        from tokentape.plugin.collecting import Tapes

        config.pluginmanager.register(Tapes(config), "tokentape-tapes")
    if config.getoption("tape_update"):
        from tokentape.plugin.playing import TapeUpdates

        updates = TapeUpdates(config, others=named)
        config.pluginmanager.register(updates, "tokentape-tape-updates")


@pytest.fixture
def tape_model(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A `tokentape.Playback`: recorded replies in place of a model.

    The tape is that of `@pytest.mark.tape(path)`, or `tapes/MODULE/TEST.tape` beside the file of
    the test. With `--tape-update`, the model is asked where the test differs from the tape, and a
    test that passes replaces it.
    """
    from tokentape.plugin.playing import play

    yield from play(request)
