"""Write every generated page and diagram: `python -m docs.generate`."""

import sys
from collections.abc import Callable
from pathlib import Path

from docs.generate.commands import commands_page
from docs.generate.drawn_rules import draw_decisions, draw_families, draw_replays, draw_rooms
from docs.generate.drawn_runs import draw_seals, draw_seeds, draw_stream
from docs.generate.events import events_page
from docs.generate.python_api import api_page

DOCS = Path(__file__).resolve().parents[1]

GENERATED: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "event-catalogue.md": events_page,
    "python-api.md": api_page,
    "images/cache-decisions.svg": draw_decisions,
    "images/events.svg": draw_families,
    "images/replays.svg": draw_replays,
    "images/rooms.svg": draw_rooms,
    "images/seals.svg": draw_seals,
    "images/seeds.svg": draw_seeds,
    "images/stream.svg": draw_stream,
}
"""What makes each file, by its path in docs/."""


def main() -> None:
    """Write the files that have changed, and print their names."""
    for name, make in GENERATED.items():
        path, text = DOCS / name, make()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"docs/{name}\n")


if __name__ == "__main__":
    main()
