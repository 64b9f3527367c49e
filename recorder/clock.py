"""The two clocks of a recording: the time of day and the time that something took."""

import time


def now_us() -> int:
    """Return the time of day in whole microseconds since 1970, in UTC."""
    return time.time_ns() // 1000


def elapsed_us(began_s: float) -> int:
    """Return the whole microseconds since `began_s`, a reading of `time.perf_counter()`."""
    return round((time.perf_counter() - began_s) * 1_000_000)
