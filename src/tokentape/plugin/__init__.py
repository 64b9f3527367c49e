"""The pytest plugin: its options, and hooks once recordings are given.

pytest imports this module in every environment that tokentape is installed in. It imports the
standard library and pytest only; replays run in a child process, which loads torch and pandas.
"""

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
        help="record tapes again that do not pass (refused if CI is set in the environment)",
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
    parser.addini("tapes", "folders or files of recordings, like --tapes", type="paths")
    parser.addini("tape_model", "like --tape-model; a folder is relative to this file", default="")
    parser.addini("tape_mode", "like --tape-mode", default="verify")
    parser.addini("tape_ignore", "like --tape-ignore", type="args")
    parser.addini("tape_floor", "like --tape-floor; relative to this file", default="")
    parser.addini("tape_allow_drift", "like --tape-allow-drift", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the hooks if recordings are given."""
    if config.getoption("tapes") or config.getini("tapes"):
        from tokentape.plugin.collecting import Tapes

        config.pluginmanager.register(Tapes(config), "tokentape-tapes")
    elif config.getoption("tape_update"):
        raise pytest.UsageError("--tape-update: name the recordings with --tapes")
