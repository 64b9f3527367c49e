"""Every `Example:` in the docstring of a public name runs and prints the output it shows."""

import doctest
import inspect
import re
import shutil
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model

# Types that users annotate with: the examples of functions that take or return them show them.
WITHOUT_CALL = {
    "Envelope",
    "GenerationState",
    "Recording",
    "Redactor",
    "Reply",
    "Report",
    "Verdict",
}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


# `tt.plots` is a module.
NAMES = sorted([*tt.__all__, *(f"plots.{each}" for each in tt.plots.__all__)])


def example_of(name: str) -> str:
    """Return the indented block below `Example:` in a public name's docstring, or nothing."""
    docstring = inspect.getdoc(attrgetter(name)(tt)) or ""
    found = re.search(r"^Examples?:\n((?:(?: +.*)?\n?)+)", docstring, flags=re.MULTILINE)
    return found.group(1) if found else ""


def is_error(name: str) -> bool:
    public = attrgetter(name)(tt)
    return isinstance(public, type) and issubclass(public, BaseException)


EXAMPLES = {name: example_of(name) for name in NAMES if example_of(name)}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[tt.LoadedModel, Path, str]:
    """A tiny model, a store with a run of it (3 turns, one with a tool's result), the run's id."""
    lm = tiny_model("llama", byte_tokenizer())
    path = tmp_path_factory.mktemp("recorded") / "runs.db"
    look = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": "model.norm.weight"})
    with (
        tt.open_store(path) as store,
        tt.Investigation(
            lm,
            store=store,
            name="probe",
            system_prompt="Be brief.",
            tools=tt.default_tools(lm),
            seed=7,
        ) as run,
    ):
        run.chat("What of the norm?", tool_calls=[look], max_new_tokens=4)
        run.chat("And?", max_new_tokens=4, do_sample=True, temperature=0.8)
        run.chat("So?", max_new_tokens=4)
    return lm, path, run.run_id


@pytest.fixture
def names(
    recorded: tuple[tt.LoadedModel, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """The names that an example may use; it may change the store, and write to `tmp_path`."""
    lm, path, run_id = recorded
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "recorded" / "runs.db"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    with tt.open_store(copy) as store:
        yield {"tt": tt, "lm": lm, "store": store, "run_id": run_id, "tmp_path": tmp_path}


def run_example(name: str, block: str, names: dict[str, Any]) -> str:
    """Return the failures that doctest reports, or an empty string."""
    test = doctest.DocTestParser().get_doctest(inspect.cleandoc(block), names, name, None, 0)
    report: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
    assert test.examples, f"the example of {name} has no line that begins with >>>"
    return "".join(report)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_a_public_name_runs(name: str, names: dict[str, Any]) -> None:
    if name == "export_scout":
        pytest.importorskip("inspect_scout", reason="the extra `scout` has it")
    assert run_example(name, EXAMPLES[name], names) == ""


def test_every_function_and_class_that_users_call_has_an_example() -> None:
    without = {name for name in NAMES if not EXAMPLES.get(name) and not is_error(name)}

    assert without == WITHOUT_CALL


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (">>> store.recording(run_id).summary.turns\n4", "AttributeError"),
        (">>> len(store.summaries())\n2", "Expected:\n    2\nGot:\n    1\n"),
    ],
)
def test_an_example_that_shows_something_else_is_reported(
    block: str, complaint: str, names: dict[str, Any]
) -> None:
    assert complaint in run_example("broken", block, names)
