"""`python -m benchmarks postgres`."""

import json
import sys
from contextlib import nullcontext
from itertools import product
from typing import Annotated

import typer

from benchmarks.machine import this_machine
from benchmarks.options import JsonOption, ticking
from benchmarks.store.postgres import PostgresRate, local_server, measure_rate
from benchmarks.store.synthetic_tokens import SyntheticTokens
from benchmarks.tiny_models import byte_tokenizer

_WRITERS = (1, 4, 16)
_TOKENS = 2_000


def postgres_command(
    url: Annotated[
        str | None, typer.Option(help="A server; without one, a server of this machine is started.")
    ] = None,
    writers: Annotated[
        list[int] | None, typer.Option(min=1, help="Processes that write at once; repeatable.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="The time of each measurement.")] = 5.0,
    json_file: JsonOption = None,
) -> None:
    """Writers of one PostgreSQL server: tokens a second with a commit each, and their bytes."""
    tokens = SyntheticTokens(byte_tokenizer()).reply(turn=1, prompt_tokens=100, count=_TOKENS)
    settings = list(product((False, True), writers or _WRITERS))
    rates = []
    with (
        local_server() if url is None else nullcontext(url) as where,
        ticking("postgres", len(settings)) as tick,
    ):
        for durable, number in settings:
            rate = measure_rate(where, tokens, writers=number, durable=durable, seconds=seconds)
            rates.append(rate)
            tick()
    machine = this_machine()
    sys.stdout.write(machine.line() + "\n\n" + "\n".join(_lines(rates)) + "\n")
    if json_file is not None:
        found = {"machine": machine.to_json(), "rates": [each.to_json() for each in rates]}
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _lines(rates: list[PostgresRate]) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = [
        "| writers | a commit waits for the disk | tokens a second | ms for a token "
        "| bytes of a token | of it in the log |",
        "|---|---|---|---|---|---|",
    ]
    for each in rates:
        waits = "yes" if each.durable else "no"
        lines.append(
            f"| {each.writers} | {waits} | {each.tokens_per_second:,.0f} | {each.token_ms:.2f} "
            f"| {each.table_bytes:.0f} | {each.wal_bytes:.0f} |"
        )
    return lines
