"""Write every generated page and diagram: `python -m docs.generate`."""

import sys
from collections.abc import Callable
from pathlib import Path

from docs.generate.commands import commands_page
from docs.generate.events import events_page
from docs.generate.python_api import api_page

DOCS = Path(__file__).resolve().parents[1]

GENERATED: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "event-catalogue.md": events_page,
    "python-api.md": api_page,
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
