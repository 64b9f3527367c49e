"""Rules of the house that no linter knows: sizes, names, private calls, and what the docs name."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("recorder", "generation", "store", "migrations", "replay", "src")
FOLDERS = (*ROOMS, "tests", "benchmarks", "docs", "examples")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70


# The classes of transformers whose methods we call; a name with an underscore there is private.
CALLED = (
    transformers.PreTrainedModel,
    transformers.GenerationMixin,
    transformers.GenerationConfig,
    transformers.PreTrainedConfig,
    transformers.PreTrainedTokenizerBase,
    transformers.PreTrainedTokenizerFast,
    transformers.DynamicCache,
    transformers.StaticCache,
)


@cache
def sources(*folders: str) -> dict[str, str]:
    """Return the text of every Python file below folders, by its path from the root."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the name of each function, and how many lines it has."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def private_names_used(tree: ast.AST) -> Iterator[str]:
    """Yield names with one underscore that are read from anything but self, cls and super()."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers"):
            yield from (each.name for each in node.names if is_private(each.name))
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id in ("self", "cls"):
                continue
            yield node.attr


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def test_no_file_is_longer_than_400_lines() -> None:
    long = {path for path, text in sources(*FOLDERS).items() if text.count("\n") > FILE_LINES_MAX}

    assert long == set()


def test_no_function_is_longer_than_70_lines() -> None:
    long = {
        f"{path}: {name}"
        for path, text in sources(*FOLDERS).items()
        for name, lines in functions(ast.parse(text))
        if lines > FUNCTION_LINES_MAX
    }

    assert long == set()


def test_no_public_class_has_the_name_of_another() -> None:
    homes: dict[str, set[str]] = defaultdict(set)
    for path, text in sources(*ROOMS).items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(path)
    twice = {name: paths for name, paths in homes.items() if len(paths) > 1}

    assert twice == {}


def test_private_names_of_transformers_are_used_in_one_folder_only() -> None:
    used = {
        f"{path}: {name}"
        for path, text in sources(*ROOMS).items()
        if not path.startswith("generation/hf/")
        for name in private_names_used(ast.parse(text))
        if any(hasattr(each, name) for each in CALLED) and not hasattr(torch.nn.Module, name)
    }

    assert used == set()


def test_the_search_for_private_names_finds_calls_and_imports() -> None:
    program = "from transformers.utils import _is_offline\nmodel._prepare_cache_for_generation()"

    assert list(private_names_used(ast.parse(program))) == [
        "_is_offline",
        "_prepare_cache_for_generation",
    ]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md"])
def test_every_path_that_a_page_names_exists(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    named = set(re.findall(r"`([\w.-]+/[\w./-]*)`", text))
    linked = set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text))

    homes = [ROOT, *(ROOT / room for room in ROOMS), ROOT / "src" / "tokentape"]
    missing = {path for path in named if not any((home / path).exists() for home in homes)}

    assert missing | {path for path in linked if not (ROOT / path).exists()} == set()
