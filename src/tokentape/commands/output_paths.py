"""Paths and URLs of what commands write."""

from pathlib import Path

import typer

from tokentape.recorder.paths import expand_path


def output_path(path: str | Path) -> Path:
    """Return the path of a file or folder to write. Raise BadParameter for `-` and for a URL."""
    if str(path) == "-":
        raise typer.BadParameter(
            "files are not written to standard output: name a file; ./- is one of that name"
        )
    if _is_object_url(str(path)):
        raise typer.BadParameter(f"{path}: only copies of runs are written to object stores")
    return expand_path(path)


def output_location(path: str) -> str:
    """Return the path or URL of a copy to write. Raise BadParameter for `-`."""
    return path if _is_object_url(path) else str(output_path(path))


def _is_object_url(path: str) -> bool:
    from tokentape.store.objects.urls import object_url

    return "://" in path and object_url(path) is not None
