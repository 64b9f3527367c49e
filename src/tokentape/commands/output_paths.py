"""Paths and URLs of what commands write."""

from pathlib import Path

import typer

from tokentape.store.errors import StoreError
from tokentape.store.objects.urls import file_location


def output_path(path: str | Path) -> Path:
    """Return the path of a file or folder to write. Raise BadParameter for `-` and for a URL."""
    _check_no_dash(path)
    try:
        place = file_location(str(path))
    except StoreError as error:
        raise typer.BadParameter(str(error)) from None
    if not isinstance(place, Path):
        raise typer.BadParameter(f"{path}: only copies of runs are written to object stores")
    return place


def output_location(path: str) -> str:
    """Return the path or URL of a copy to write, as given. Raise BadParameter for `-`."""
    _check_no_dash(path)
    return path


def _check_no_dash(path: str | Path) -> None:
    if str(path) == "-":
        raise typer.BadParameter(
            "files are not written to standard output: name a file; ./- is one of that name"
        )
