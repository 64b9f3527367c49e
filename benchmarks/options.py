"""What the commands share: options, the demo model, progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

import tokentape as tt
from tokentape import output

JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]


def demo_model(device: str) -> tt.LoadedModel:
    with output.working("loading the model"):
        return tt.load_model("smollm2-demo", device=device)


@contextmanager
def ticking(description: str, count: int) -> Iterator[Callable[[], None]]:
    with output.progress(description) as bar:
        task = bar.add_task("", total=count)
        yield lambda: bar.advance(task)
