"""The notebook of examples/ runs from its first cell to its last, and is stored without outputs."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "analysis.ipynb"
PICTURES = {"surprise", "cache", "memory", "tools", "seeds", "entropy"}
"""The cells that draw."""


def outputs(notebook: Any) -> dict[str, list[Any]]:
    return {each.id: each.outputs for each in notebook.cells if each.cell_type == "code"}


def test_it_is_stored_without_outputs_which_would_be_older_than_the_code() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)

    assert {name for name, found in outputs(notebook).items() if found} == set()
    assert {each.get("execution_count") for each in notebook.cells} == {None}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_runs_in_an_empty_folder_and_draws(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setenv("ANALYSIS_MODEL", str(tiny_folder))
    monkeypatch.setenv("ANALYSIS_TOKENS", "8")
    monkeypatch.setenv("TOKENTAPE_DATABASE_URL", f"sqlite:///{tmp_path}/runs.db")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, resources=place).execute()
    shown = {name: found[-1].get("data", {}) for name, found in outputs(notebook).items() if found}

    assert {name for name, data in shown.items() if "image/png" in data} == PICTURES
    assert outputs(notebook).keys() - shown.keys() <= {"store", "record"}
    assert "hot-3" in shown["runs"]["text/html"]
    assert [each.split()[0] for each in shown["during"]["text/plain"].splitlines()[2:]] == [
        *("before", "during", "after")
    ]
    assert "turn 1 differs first" in shown["diff"]["text/plain"]
    assert shown["view"]["text/html"].startswith('<iframe sandbox="allow-scripts" srcdoc=')
    assert (tmp_path / "run.html").stat().st_size > 100_000
