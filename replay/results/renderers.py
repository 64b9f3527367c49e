"""The renderers of results, which `replay.reports` sets: results import no reports."""

from collections.abc import Callable
from typing import Any, Literal

Form = Literal["text", "html"]

_RENDERERS: dict[tuple[type, Form], Callable[[Any], str]] = {}


def set_renderer(kind: type, form: Form, render: Callable[[Any], str]) -> None:
    """Let `render` make the text or the page of results of a class."""
    _RENDERERS[kind, form] = render


def rendered(result: object, form: Form) -> str:
    """Return a result as text or as a page."""
    return _RENDERERS[type(result), form](result)
