"""The conditions by which runs are listed, and the times that they may be given as."""

import re
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from typing import TypedDict

from tokentape.store.errors import StoreError

_AGO = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|min|h|d|w)")
_UNITS = {
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_INT64_MAX = 2**63 - 1

Time = str | date
"""A date or a time: local, unless it says another zone."""


class RunConditions(TypedDict, total=False):
    """The conditions that a listed run fulfils, all of them.

    Upper and lower case do not matter in texts. `name`, `model` and `plan` are a part of the text,
    or a pattern of the whole text if they have a `*` or a `?`.
    """

    name: str
    model: str
    plan: str
    """The name of the plan that the run was started with."""
    status: str
    """`running`, `finished`, `interrupted` or `failed`."""
    tag: str | Iterable[str]
    """A tag that it has, or several that it has all of."""
    since: Time
    """It started then or later: `2026-11-27`, `2026-11-27 14:30`, `2d` for two days ago (`s`,
    `min`, `h`, `d`, `w`), or a `date` or `datetime`."""
    until: Time
    """It started before then; on that day or before, if it is a date."""
    said: str
    """A message, a reply, a tool result or the system prompt contains it, in the run's own turns,
    not in those that a fork shares."""


def time_us(given: Time, now_us: int, *, end: bool = False) -> int:
    """Return a time in microseconds since 1970 UTC; with `end`, the end of the day of a date.

    Raise StoreError if it is not a time.
    """
    moment: date = given if isinstance(given, date) else _parsed(given, now_us)
    if not isinstance(moment, datetime):
        day = moment + timedelta(days=1) if end else moment
        moment = datetime.combine(day, time())
    try:
        found = round(moment.timestamp() * 1_000_000)
    except (OSError, OverflowError, ValueError):
        raise _no_time(given) from None
    return max(-_INT64_MAX, min(found, _INT64_MAX))


def _parsed(given: object, now_us: int) -> date:
    if not isinstance(given, str):
        raise _no_time(given)
    text = given.strip()
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            now = datetime.fromtimestamp(now_us / 1_000_000).astimezone()
            return now - float(ago[1]) * _UNITS[ago[2]]
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return date.fromisoformat(text)
        return datetime.fromisoformat(text)
    except (OSError, OverflowError, ValueError):
        raise _no_time(given) from None


def _no_time(given: object) -> StoreError:
    return StoreError(
        f"{given!r} is no time: write 2026-11-27, 2026-11-27 14:30, or 2d for two days ago "
        "(s, min, h, d, w)"
    )
