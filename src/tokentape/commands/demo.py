"""The command `demo`: record 20 turns with a small model and replay them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokentape.commands.options import ModelOption, loads_model
from tokentape.commands.output_paths import output_path

if TYPE_CHECKING:
    from tokentape.generation.models.loading_settings import LoadingKeywords


@loads_model
def demo(
    *,
    store: Annotated[
        str, typer.Option(help="The database to record to.")
    ] = "sqlite:///runs/demo.db",
    sealed: Annotated[
        Path,
        typer.Option(parser=output_path, metavar="PATH", help="The Parquet folder to export to."),
    ] = Path("runs/demo-sealed"),
    page: Annotated[
        Path,
        typer.Option(parser=output_path, metavar="FILE", help="The page of the run to write."),
    ] = Path("runs/demo.html"),
    model: ModelOption = "smollm2-demo",
    loading: "LoadingKeywords",
    plan: Annotated[
        str, typer.Option(help="A plan that `tokentape run --list` shows, or a YAML file.")
    ] = "demo",
    regenerate: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Turn to regenerate; may be repeated; default: 2, 7 and 18."),
    ] = None,
) -> None:
    """Ask a model about its own weights for 20 turns, record the run, and replay it.

    Then a copy with one token changed is checked, which is not stored, and a page of the run is
    written that shows both. Exit code 1: a replay failed, or did not find the changed token.
    """
    from tokentape.demo import DemoFiles, run_demo

    files = DemoFiles(store=store, sealed=sealed, page=page)
    raise typer.Exit(run_demo(files, model, plan, regenerate or (), loading))
