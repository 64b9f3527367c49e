"""The page of every command and its options, from the command line itself."""

import re
from collections.abc import Iterator
from typing import Any

import typer.main

from docs.generate.markdown import item, page, prose, wrapped
from tokentape.cli import app

ABOUT = """`tokentape COMMAND --help` prints the same. [Command line](command-line.md) says how runs
are named, which exit codes there are, and shows what the commands are used for."""

_VALUES = {"str": "TEXT", "int": "N", "int range": "N", "list[int]": "N", "float": "NUMBER"}
"""What stands for a value whose option names none, by typer's name of its type."""


def commands_page() -> str:
    """Return the page."""
    root = typer.main.get_command(app)
    context = root.context_class(root, info_name="tokentape")
    return page("Commands and options", ABOUT, *_sections(root, context))


def _sections(group: Any, context: Any) -> Iterator[str]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        below = command.context_class(command, info_name=name, parent=context)
        if hasattr(command, "commands"):
            yield from _sections(command, below)
        else:
            yield _section(command, below)


def _section(command: Any, context: Any) -> str:
    usage = command.get_usage(context).removeprefix("Usage: ")
    first, *rest = (command.help or "").split("\n\n")
    paragraphs = [prose(wrapped(each)) for each in (first, *rest)]
    items = [_item(each, context) for each in command.params if not each.hidden]
    return "\n\n".join(
        [
            f"## {context.command_path}",
            f"```text\n{' '.join(usage.split())}\n```",
            *paragraphs,
            "\n".join(items),
        ]
    )


def _item(parameter: Any, context: Any) -> str:
    """Return the item of an option or argument; that of an argument has its name alone."""
    names, text = parameter.get_help_record(context)
    if parameter.param_type_name == "argument":
        return item(names.partition(" ")[0], text)
    shown = re.sub(r"<([^>]+)>", lambda found: _VALUES.get(found[1], found[1].upper()), names)
    return item(shown, text)
