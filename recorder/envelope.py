"""An event and its place in a run."""

from dataclasses import dataclass

from recorder.events import Event


@dataclass(frozen=True, slots=True)
class Envelope:
    """`seq` counts from zero without a hole; `at_ns` is nanoseconds since 1970, in UTC."""

    run_id: str
    seq: int
    at_ns: int
    event: Event
