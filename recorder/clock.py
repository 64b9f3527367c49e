"""The two clocks of a recording: the time of day and the time that something took."""

import time
from typing import Any

LAST_US = 253_402_300_799_999_999
"""The last microsecond of the year 9999, after which neither Python nor ISO 8601 has dates."""


def now_us() -> int:
    """Return the time of day in whole microseconds since 1970, in UTC."""
    return time.time_ns() // 1000


def elapsed_us(began_s: float) -> int:
    """Return the whole microseconds since `began_s`, a reading of `time.perf_counter()`."""
    return round((time.perf_counter() - began_s) * 1_000_000)


def is_recordable(at_us: Any) -> bool:
    """Return whether a time is a whole number of microseconds in the years 1970 to 9999."""
    return isinstance(at_us, int) and 0 <= at_us <= LAST_US
