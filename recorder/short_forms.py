"""Short forms of objects for an interactive session: one line, or a small HTML table.

Texts of recordings are escaped: neither a control character nor markup in them has an effect. The
tables have no colours, so that they fit light and dark notebooks.
"""

import html
from collections.abc import Callable, Iterable, Sequence

from tokentape.recorder.damage import DECODING_ERRORS
from tokentape.recorder.errors import TokentapeError
from tokentape.recorder.escapes import visible

_FAULTS: tuple[type[Exception], ...] = (TokentapeError, *DECODING_ERRORS)
_TEXT_CHARS = 60
_FACT_CHARS = 80
_CELL_CHARS = 300
_ROWS_MAX = 20
_CELL = "text-align: left; vertical-align: top; white-space: pre-wrap"


def short_repr(value: object, *facts: object) -> str:
    """Return `<Class fact fact …>` on one line: long facts are cut, empty ones left out."""
    shown = [excerpt(str(each), _FACT_CHARS) for each in facts if str(each)]
    return f"<{' '.join([type(value).__name__, *shown])}>"


def excerpt(text: str, chars: int = _TEXT_CHARS) -> str:
    """Return the start of a text on one line, with an ellipsis if it is cut."""
    return visible(text[:chars]) + ("…" if len(text) > chars else "")


def quoted(text: str, chars: int = _TEXT_CHARS) -> str:
    """Return the start of a text in quotes, on one line, as Python writes it."""
    return repr(text[:chars] + ("…" if len(text) > chars else ""))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def html_table(
    title: str, head: Sequence[str], rows: Iterable[Sequence[object]], *, end: str = "more"
) -> str:
    """Return a title and a table of at most 20 rows as HTML; every text is escaped.

    Further rows are counted in a line after the table, before the word `end`.
    """
    cells = [tuple(map(_cell, row)) for row in rows]
    lines = [f"<div><strong>{_cell(title)}</strong>", '<table style="margin: 0.3em 0">']
    if head:
        titles = "".join(f'<th style="{_CELL}">{_cell(each)}</th>' for each in head)
        lines.append(f"<thead><tr>{titles}</tr></thead>")
    lines.append("<tbody>")
    for row in cells[:_ROWS_MAX]:
        shown = "".join(f'<td style="{_CELL}">{each}</td>' for each in row)
        lines.append(f"<tr>{shown}</tr>")
    lines.append("</tbody></table>")
    if len(cells) > _ROWS_MAX:
        lines.append(f"<div>… {len(cells) - _ROWS_MAX:,} {_cell(end)}</div>")
    return "".join([*lines, "</div>"])


def html_facts(title: str, facts: Iterable[tuple[str, object]]) -> str:
    """Return a table of names and values as HTML; empty values are left out."""
    return html_table(title, (), [each for each in facts if each[1] not in ("", None)])


def html_or_fault(value: object, make: Callable[[], str]) -> str:
    """Return the HTML of a value, or its one line and why its events cannot be read."""
    try:
        return make()
    except _FAULTS as error:
        return html_facts(repr(value), [("cannot be read", str(error))])


def _cell(value: object) -> str:
    return html.escape(excerpt(str(value), _CELL_CHARS))
