"""Sampling settings that tests of several folders share."""

from typing import Any

GREEDY: dict[str, Any] = {"do_sample": False}
SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 0.8}
