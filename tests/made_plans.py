"""A short experiment plan for tests."""

from typing import Any

_TURNS = [
    {
        "message": "What of this?",
        "tool_calls": [
            {"name": "get_weight_statistics", "arguments": {"layer_name": "{layer:1}"}},
        ],
    },
    "And?",
    "Well?",
]


def short_plan(**fields: Any) -> dict[str, Any]:
    """Return a plan of one task with three turns, the first with a tool call."""
    plan: dict[str, Any] = {
        "name": "short",
        "system_prompt": "Look.",
        "tools": ["get_weight_statistics"],
        "tasks": [{"title": "Look", "turns": _TURNS}],
    }
    return plan | fields
