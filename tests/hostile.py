"""Texts that command a terminal, runs that are full of them, and a terminal that shows the rest."""

import json
import os
import re
import sqlite3
import sys
import termios
import threading
import tty
import typing
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tokentape.recorder import Record
from tokentape.recorder.codec import decode_body
from tokentape.recorder.events import EVENT_CLASSES, TOKEN_KIND
from tokentape.recorder.seals import SealChain
from tokentape.store.live.tables import SEQ_BITS

FORGED = "FORGED"
"""Begins the line that a text forges with its line end."""
# Movements and styles that rich writes, and those of a status line: no hostile text has one.
_OURS = re.compile(
    r"\x1b\[(?!31;5;7)[0-9;]*m|\x1b\[\?25[lh]|\r?(?:\x1b\[1A)?\x1b\[2K"
    r"|\x1bD\x1b\[1A|\x1b7\x1b\[1B\r(?:\x1b\[2K)?|(?:\x1b\[K)?\x1b8"
)
_COMMANDS = (
    "\x1b[31;5;7m\x1b[2J\x1b[7A\x1b]0;title\x07\x1b]8;;http://h.example\x1b\\x\x1b]52;c;aA==\x07"
    "\x9b2J\x9d0;t\x9c\x90q\u202e\u2066\u2069\u200e\u200f\u061c\r\b\x0b\x0c\x7f"
    "\u2028\u2029\x85\u200b\u2060\ufeff\U000e0041\U000e007f"
    "<script>alert(1)</script>"
)


def hostile(mark: str) -> str:
    """Return a text with every kind of command, and a mark that tells where it was recorded."""
    return f"<{mark}{_COMMANDS}[bold]b[/bold][link=h:x]l[/link][/nope]\n{FORGED} {mark}\n\t>"


def without_ours(shown: str) -> str:
    """Return what a terminal got without our own styles and movements of its cursor."""
    return _OURS.sub("", shown)


def raw_characters(shown: str) -> set[str]:
    """Return the characters of what a terminal got that command it, without our own styles."""
    rest = without_ours(shown)
    unsafe = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return {each for each in rest if unicodedata.category(each) in unsafe} - set("\n\t\u200d")


def forged_lines(shown: str) -> set[str]:
    """Return the marks of texts that began a line of their own."""
    lines = without_ours(shown).split("\n")
    return {line.removeprefix(FORGED).strip() for line in lines if line.startswith(FORGED)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a command wrote to a terminal, standard output and standard error together."""

    code: int
    text: str


TERMINAL = "xterm-256color"
"""The kind of terminal of `on_terminal`."""


def on_terminal(
    *arguments: str,
    encoding: str = "utf-8",
    columns: int = 600,
    environment: Mapping[str, str] | None = None,
) -> Shown:
    """Run a command of `tokentape` in this process, with a terminal as its standard streams."""
    from tokentape.cli import main

    with pytest.MonkeyPatch.context() as patch, _terminal(encoding) as (streams, received):
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
            patch.setattr(sys, f"__{name}__", stream)
        patch.setenv("TERM", TERMINAL)
        patch.setenv("COLUMNS", str(columns))
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE"):
            patch.delenv(name, raising=False)
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["tokentape", *arguments])
        # A command that owns its streams ends the process where a tool of a test still runs.
        patch.setattr("tokentape.cli._tools_have_ended", lambda: True)
        with pytest.raises(SystemExit) as exited:
            main()
        sys.stdout.flush()
        sys.stderr.flush()
    return Shown(code=int(exited.value.code or 0), text=b"".join(received).decode(encoding))


@contextmanager
def guarded_terminal() -> Iterator[list[bytes]]:
    """Make a terminal the standard streams, as a command does, and yield what it receives."""
    from tokentape.streams import guard_streams

    with pytest.MonkeyPatch.context() as patch, _terminal("utf-8") as (streams, received):
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
            patch.setattr(sys, f"__{name}__", stream)
        patch.setenv("TERM", "xterm-256color")
        guard_streams()
        yield received
        sys.stdout.flush()
        sys.stderr.flush()


@contextmanager
def _terminal(encoding: str) -> Iterator[tuple[list[typing.TextIO], list[bytes]]]:
    """Yield two streams to a new terminal, and the list that gets what it receives."""
    master, slave = os.openpty()
    tty.setraw(slave)
    termios.tcsetwinsize(slave, (50, 600))
    received: list[bytes] = []

    def read() -> None:
        while True:
            try:
                piece = os.read(master, 65_536)
            except OSError:
                return
            received.append(piece)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    streams: list[typing.TextIO] = [
        open(os.dup(slave), "w", encoding=encoding)  # noqa: SIM115 - closed below
        for _ in range(2)
    ]
    try:
        yield streams, received
    finally:
        for each in streams:
            each.close()
        os.close(slave)
        reader.join(10)
        os.close(master)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextField:
    """A field of an event that may hold text, at any depth."""

    kind: str
    name: str

    @property
    def mark(self) -> str:
        """Tells the field in a shown text."""
        return f"{self.kind}.{self.name}"

    def filled(self, body: dict[str, Any], *, keep: bool) -> dict[str, Any]:
        """Return the body of an event with hostile texts in the field; `keep` those it has."""
        hint = typing.get_type_hints(EVENT_CLASSES[self.kind])[self.name]
        return body | {self.name: _filled(body[self.name], hint, self.mark, keep)}


def text_fields() -> list[TextField]:
    """Return every field of every class of events that may hold text."""
    return [
        TextField(kind=kind, name=field.name)
        for kind, cls in EVENT_CLASSES.items()
        for field in fields(cls)
        if _may_hold_text(typing.get_type_hints(cls)[field.name])
    ]


def _may_hold_text(hint: Any) -> bool:
    inner = typing.get_args(hint)
    if inner:
        return any(map(_may_hold_text, inner))
    return hint is Any or (isinstance(hint, type) and issubclass(hint, str))


def _filled(value: Any, hint: Any, mark: str, keep: bool) -> Any:
    # JSON can have what a name of a file, or a column of a database, cannot.
    text = hostile(mark) if keep else hostile(mark) + "\ud83d\0"
    if isinstance(value, dict):
        kept = {
            name: each if keep else _filled(each, Any, mark, keep) for name, each in value.items()
        }
        return kept | {hostile(f"{mark} key"): {"deep": [text, {text: text}]}}
    if isinstance(value, list):
        holds = any(_may_hold_text(each) for each in typing.get_args(hint)) or hint is Any
        kept = value if keep else [_filled(each, Any, mark, keep) for each in value]
        return [*kept, text] if holds and typing.get_origin(hint) is tuple else kept
    if isinstance(value, str) or (value is None and _may_hold_text(hint)):
        return text
    return value


class Forger:
    """Writes runs into a SQLite file as a stranger would: rows, without our checks and triggers."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        self._triggers = self._database.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in self._triggers:
            self._database.execute(f"DROP TRIGGER {name}")

    def __enter__(self) -> "Forger":
        return self

    def __exit__(self, *error: object) -> None:
        for _, statement in self._triggers:
            self._database.execute(statement)
        self._database.commit()
        self._database.close()

    def execute(self, statement: str, *values: Any) -> None:
        """Execute a statement of SQL."""
        self._database.execute(statement, values)

    def add(self, run_id: str, base_id: str, records: list[Record]) -> None:
        """Add a run like another one, but with these records, sealed again; tokens are copied."""
        (base_key,) = self._database.execute(
            "SELECT run_key FROM runs WHERE run_id = ?", [base_id]
        ).fetchone()
        columns = [each[1] for each in self._database.execute("PRAGMA table_info(runs)")][2:]
        copied = ", ".join(columns)
        key = self._database.execute(
            f"INSERT INTO runs (run_id, {copied}) SELECT ?, {copied} FROM runs WHERE run_key = ?",
            [run_id, base_key],
        ).lastrowid
        assert key is not None
        shift = key - base_key << SEQ_BITS
        for table in ("events", "tokens"):
            names = [each[1] for each in self._database.execute(f"PRAGMA table_info({table})")][1:]
            self._database.execute(
                f"INSERT INTO {table} SELECT event_key + ?, {', '.join(names)} FROM {table} "
                f"WHERE event_key >> {SEQ_BITS} = ?",
                [shift, base_key],
            )
        for record in sealed_again(run_id, records):
            if record.kind != TOKEN_KIND:
                self._database.execute(
                    "UPDATE events SET body = ?, seal = ? WHERE event_key = ?",
                    [record.body, record.seal, key << SEQ_BITS | record.seq],
                )


def sealed_again(run_id: str, records: list[Record]) -> list[Record]:
    """Return the records with the seals that they would have in a run of this id."""
    chain, sealed = SealChain(run_id), []
    for record in records:
        new = record if record.seal is None else replace(record, seal=chain.seal_of(record))
        chain.add(new)
        sealed.append(new)
    return sealed


def with_field(records: list[Record], field: TextField) -> list[Record]:
    """Return the records with hostile texts in one field of every event of a class."""
    return [
        _with_body(each, field.filled(json.loads(each.body), keep=False))
        if each.kind == field.kind and isinstance(each.body, str)
        else each
        for each in records
    ]


def with_all_fields(records: list[Record], but: set[str]) -> list[Record]:
    """Return the records with hostile texts in every field in which the class accepts them."""
    filled = records
    for field in text_fields():
        if field.mark in but:
            continue
        for index, each in enumerate(filled):
            if each.kind != field.kind or not isinstance(each.body, str):
                continue
            body = field.filled(json.loads(each.body), keep=True)
            try:
                decode_body(each.kind, each.version, json.dumps(body))
            except tt.TokentapeError:
                continue
            filled = [*filled[:index], _with_body(each, body), *filled[index + 1 :]]
    return filled


def _with_body(record: Record, body: dict[str, Any]) -> Record:
    return replace(record, body=json.dumps(body, sort_keys=True))
