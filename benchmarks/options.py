"""Options, the demo model and progress bars that the commands share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

import tokentape as tt
from tokentape import output

JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")]
RoundsOption = Annotated[
    int, typer.Option(min=1, help="Timed rounds; one more round is run first to warm up.")
]


def demo_model(device: str) -> tt.LoadedModel:
    """Load the bundled demo model."""
    with output.working("loading the model"):
        return tt.load_model("smollm2-demo", device=device)


@contextmanager
def ticking(description: str, count: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar of `count` steps; yield a function that advances it by one."""
    with output.progress(description) as bar:
        task = bar.add_task("", total=count)
        yield lambda: bar.advance(task)
