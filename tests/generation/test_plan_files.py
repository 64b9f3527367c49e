"""What a plan names stays in the folder of the file that the user names."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tokentape.generation.plans import load_plan

WHOLE: dict[str, Any] = {
    "name": "mine",
    "system_prompt": "Look.",
    "tasks": [{"title": "One", "turns": ["First?"]}],
}


def written(file: Path, fields: dict[str, Any]) -> Path:
    file.write_text(json.dumps(fields))
    return file


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a folder beside that of a plan, with a text and a plan."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "text.md").write_text("A secret.")
    written(folder / "base.yaml", WHOLE)
    return folder


@pytest.mark.parametrize(("field", "file"), [("document", "text.md"), ("extends", "base.yaml")])
@pytest.mark.parametrize(
    "name",
    [
        "../outside/{}",
        "a/../../outside/{}",
        "{folder}/{}",
        "~/{}",
        "C:{}",
        r"\\host\share\{}",
        "link/{}",
        "linked-{}",
    ],
)
def test_a_plan_names_no_file_outside_its_folder(
    name: str,
    field: str,
    file: str,
    outside: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(outside))
    (tmp_path / "plans" / "a").mkdir(parents=True)
    (tmp_path / "plans" / "link").symlink_to(outside)
    (tmp_path / "plans" / f"linked-{file}").symlink_to(outside / file)
    named = name.format(file, folder=outside)
    if field == "document":
        fields = WHOLE | {"background": {"when": "before_first_task", "document": named}}
    else:
        fields = {"name": "child", "extends": named}
    plan = tmp_path / "plans" / "mine.yaml"
    plan.write_text(json.dumps(fields))

    with pytest.raises(tt.PromptError) as refused:
        load_plan(plan)
    assert f"{plan}: " in str(refused.value)
    assert f"{field} names a file outside the folder {plan.parent}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_extended_plan_stays_in_the_folder_of_the_plan_that_is_named(
    outside: Path, tmp_path: Path
) -> None:
    background = {"when": "before_first_task", "document": "../outside/text.md"}
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.yaml").write_text(json.dumps(WHOLE | {"background": background}))
    (tmp_path / "mine.yaml").write_text('{"name": "child", "extends": "sub/base.yaml"}')

    assert "A secret." in load_plan(tmp_path / "mine.yaml").turns()[0].message
    with pytest.raises(tt.PromptError, match=r"sub/base\.yaml: background\.document names a file"):
        load_plan(tmp_path / "sub" / "base.yaml")


def test_a_document_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "text.md")
    background = {"when": "before_first_task", "document": "text.md"}
    with pytest.raises(tt.PromptError, match="a pipe, not a file"):
        load_plan(written(tmp_path / "mine.yaml", WHOLE | {"background": background}))
