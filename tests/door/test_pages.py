"""The pages of the documentation: programs run, and named commands and files exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer.main

from tokentape.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")]
}
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)


def without_blocks(page: str) -> str:
    return re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)


@pytest.mark.demo_model
@pytest.mark.parametrize(
    ("page", "count", "last_line"),
    [("README.md", 1, "verified"), ("docs/quickstart.md", 7, "verified exact")],
)
def test_the_python_blocks_of_a_page_are_one_program(
    page: str,
    count: int,
    last_line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    names["store"].close()  # type: ignore[attr-defined]

    assert len(blocks(page, "python")) == count
    assert capsys.readouterr().out.splitlines()[-1] == last_line


def shown_commands(page: str) -> list[list[str]]:
    """Return the words of each `tokentape …` line that a page shows."""
    lines = re.findall(r"^\$ tokentape (.*)$", PAGES[page], flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("page", [page for page in PAGES if shown_commands(page)])
def test_every_command_and_option_that_a_page_shows_exists(page: str) -> None:
    for name, *words in shown_commands(page):
        command = COMMANDS[name]
        if name == "db":
            command = command.commands[words[0]]
        known = {flag for option in command.params for flag in option.opts}

        assert {word for word in words if word.startswith("--")} <= known | {"--help"}


def test_the_page_of_the_command_line_shows_every_command_and_exit_code() -> None:
    page = "docs/command-line.md"
    shown = {name for name, *_ in shown_commands(page)}
    rows = re.findall(r"^\| ([\d, ]+) \|", PAGES[page], flags=re.MULTILINE)
    codes = {code for row in rows for code in row.split(", ")}

    assert shown == {name for name, command in COMMANDS.items() if not command.hidden}
    assert codes == {"0", "1", "2", "3", "5", "129", "130", "141", "143"}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: str) -> None:
    folder = (ROOT / page).parent
    broken = []
    for target in re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\"\s]+)", without_blocks(page)):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        linked = (folder / path).resolve() if path else ROOT / page
        if not linked.exists() or (heading and heading not in headings(linked)):
            broken.append(target)

    assert broken == []


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, spelled as GitHub does."""
    text = page.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_index_lists_every_page_and_the_glossary_is_sorted() -> None:
    index = PAGES["docs/index.md"]
    terms = re.findall(r"^\| ([a-z][a-z ]*) \|", index.split("## Glossary")[1], flags=re.MULTILINE)
    pages = {Path(page).name for page in PAGES if page.startswith("docs/")} - {"index.md"}

    assert {page for page in pages if f"({page})" not in index} == set()
    assert terms[1:] == sorted(terms[1:])
    assert len(terms) > 30


def test_the_pictures_are_what_the_commands_print() -> None:
    spec = importlib.util.spec_from_file_location("make_images", ROOT / "docs" / "make_images.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, command in module.COMMANDS.items():
        picture = (ROOT / "docs" / "images" / f"{name}.svg").read_text(encoding="utf-8")

        assert module.draw(command) == picture, "draw it again: python docs/make_images.py"
