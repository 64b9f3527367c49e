"""What a shell completes: runs, tags and plans, found without torch."""

import os
from importlib import resources

import typer

import tokentape as tt
from tokentape.store.default_store import DEFAULT_URL

RUNS_MAX = 200
"""The greatest number of the newest runs whose ids and names are offered."""


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names, then the ids, of the newest runs of the store that begin so."""
    path, separator, _ = incomplete.rpartition("#")
    store = path or ctx.params.get("store") or _default_store()
    try:
        with tt.open_store(store, must_exist=True) as opened:
            runs = opened.summaries()[-RUNS_MAX:]
    except Exception:
        # An error would be printed into the line that is being typed.
        return []
    names = [each.name for each in reversed(runs)] + [each.run_id for each in reversed(runs)]
    found = [f"{path}{separator}{each}" for each in dict.fromkeys(names) if _is_word(each)]
    return [each for each in found if each.startswith(incomplete)]


def complete_tag(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the tags of the store that begin so."""
    store = ctx.params.get("store") or _default_store()
    try:
        with tt.open_store(store, must_exist=True) as opened:
            labels = opened.labels_by_run()
    except Exception:
        return []
    tags = sorted({tag for each in labels.values() for tag in each.tags})
    return [each for each in tags if each.startswith(incomplete) and _is_word(each)]


def complete_plan(incomplete: str) -> list[str]:
    """Return the names of the plans that come with tokentape and begin so."""
    files = resources.files("tokentape").joinpath("generation", "plans").iterdir()
    names = sorted(each.name.removesuffix(".yaml") for each in files if each.name.endswith(".yaml"))
    return [each for each in names if each.startswith(incomplete)]


def _is_word(text: str) -> bool:
    """Return whether a shell takes a text as one word, whatever a stranger named a run."""
    return bool(text) and all(each.isalnum() or each in "-_.+=@" for each in text)


def _default_store() -> str:
    return os.environ.get("TOKENTAPE_DATABASE_URL") or DEFAULT_URL
