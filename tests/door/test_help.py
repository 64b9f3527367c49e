"""Every command, argument and option has a help text."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from tokentape.cli import app


def all_commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command that is not hidden, with its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, f"{prefix}{name} ")
        elif not command.hidden:
            yield f"{prefix}{name}", command


COMMANDS = dict(all_commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_and_each_of_its_options_have_a_help_text(name: str) -> None:
    command = COMMANDS[name]
    texts = {parameter.name: getattr(parameter, "help", "") for parameter in command.params}

    assert (command.help or "").partition("\n")[0].endswith((".", ":"))
    assert {option for option, text in texts.items() if not text or not text[0].isupper()} == set()


def test_every_command_that_prints_results_prints_json_too() -> None:
    interactive = {"demo", "chat", "serve", "tail"}
    without = {
        name
        for name, command in COMMANDS.items()
        if "--json" not in {flag for option in command.params for flag in option.opts}
    }

    assert without == interactive


def test_the_codes_of_a_replay_are_in_its_help() -> None:
    for name in ("verify", "retrace", "regenerate", "diff", "check"):
        assert "Exit code" in (COMMANDS[name].help or "")
