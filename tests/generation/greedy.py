"""Settings of a greedy turn."""

from typing import Any

GREEDY: dict[str, Any] = {"do_sample": False}
