"""The command that shows it all."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    store: Annotated[str, typer.Option(help="Where to record.")] = "sqlite:///runs/demo.db",
    sealed: Annotated[Path, typer.Option(help="Folder to seal the run into.")] = Path(
        "runs/demo-sealed"
    ),
    model: Annotated[str, typer.Option(help="The model to ask.")] = "smollm2-demo",
    script: Annotated[
        Path | None, typer.Option(help="A TOML file of turns instead of the bundled one.")
    ] = None,
) -> None:
    """Ask a model about its own weights for 20 turns, record it, and replay the recording."""
    from tokentape.demo import run_demo

    raise typer.Exit(run_demo(store, sealed, model, script))
