"""Only one module writes to the terminal, so that no text of a recording gets there raw."""

import ast
from collections.abc import Iterator

import pytest

from tests.door.test_house import ROOMS, sources

WRITERS = {"src/tokentape/screen.py", "src/tokentape/streams.py"}
# Its answers are a protocol, and its standard streams are pipes.
SERVES_PYTEST = "src/tokentape/commands/replay_requests.py"

STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
CALLS = {"print", "input", "breakpoint"}
ATTRIBUTES = {
    "logging": {"StreamHandler", "basicConfig", "lastResort"},
    "os": {"dup", "dup2", "fdopen", "write"},
    "sys": STREAMS | {"displayhook", "excepthook"},
    "traceback": {"print_exc", "print_exception", "print_last", "print_stack", "print_tb"},
    "typer": {"confirm", "echo", "echo_via_pager", "launch", "prompt", "secho"},
    "warnings": {"showwarning"},
}
# Rich may draw; only a console writes, and markup turns text into styles and links.
RICH = {"console", "live", "logging", "markup", "pretty", "prompt", "status", "table", "traceback"}
MODULES = {"click", "curses", "getpass", "readline"}
ALLOWED = {
    # It sets how a warning is shown: by the one way out.
    ("src/tokentape/cli.py", "warnings.showwarning"),
    # It passes a warning on, or not, to what was set.
    ("src/tokentape/runs_bar.py", "warnings.showwarning"),
    (SERVES_PYTEST, "os.dup"),
    (SERVES_PYTEST, "os.dup2"),
    (SERVES_PYTEST, "os.fdopen"),
    # What libraries print in a process of many goes to its standard error.
    ("replay/bulk/pool.py", "os.dup2"),
    # A file that it has just made.
    ("generation/cache/prefix_key.py", "os.fdopen"),
    # A display is given to `live_below`, with a console of the one way out.
    ("src/tokentape/output.py", "rich.live"),
}


def ways_out(tree: ast.AST) -> Iterator[str]:
    """Yield every name in a program that writes to a standard stream or gives one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield node.func.id
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            named = {node.attr} & ATTRIBUTES.get(node.value.id, set())
            yield from (f"{node.value.id}.{each}" for each in named)
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if is_writer(each.name))
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            if is_writer(node.module):
                yield node.module
            for each in node.names:
                if each.name in ATTRIBUTES.get(node.module, set()):
                    yield f"{node.module}.{each.name}"
                if node.module == "rich" and (each.name in RICH or each.name == "print"):
                    yield f"rich.{each.name}"


def is_writer(module: str) -> bool:
    first, _, rest = module.partition(".")
    return first in MODULES or module == "rich" or (first == "rich" and rest in RICH)


def test_only_the_screen_writes_to_the_terminal() -> None:
    found = {
        (path, way)
        for path, text in sources(*ROOMS).items()
        if path not in WRITERS
        for way in ways_out(ast.parse(text))
    }

    assert found - ALLOWED == set()
    assert found >= ALLOWED


@pytest.mark.parametrize(
    ("program", "way"),
    [
        ("print('x')", "print"),
        ("import sys\nsys.stdout.write('x')", "sys.stdout"),
        ("from sys import stderr", "sys.stderr"),
        ("import typer\ntyper.echo('x')", "typer.echo"),
        ("from rich.console import Console", "rich.console"),
        ("from rich import print", "rich.print"),
        ("import rich", "rich"),
        ("import os\nos.write(1, b'x')", "os.write"),
        ("import traceback\ntraceback.print_exc()", "traceback.print_exc"),
        ("import logging\nlogging.basicConfig()", "logging.basicConfig"),
        ("import click", "click"),
    ],
)
def test_the_search_finds_each_way_out(program: str, way: str) -> None:
    assert way in set(ways_out(ast.parse(program)))
