"""Build the documentation as a site, without a network: `python -m docs.make_site` (`make docs`).

The pages are those of the repository, read as GitHub reads them. They are copied into one folder,
and the links between them follow; the order of the pages is that of docs/index.md. A warning, such
as a link to a heading that does not exist, is an error.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "mkdocs.yml"
BUILD = ROOT / "build" / "docs"

OUTSIDE = {
    "README.md": "about.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/ci/README.md": "recordings-in-ci.md",
}
"""Pages that are not in docs/, and their names in the site."""
_LINK = re.compile(r"(\]\(|\b(?:src|srcset|href)=\")([^)\"\s]+)([)\"])")
_ENTRY = re.compile(r"^- \[([^\]]+)\]\(([^)#\s]+)\)", flags=re.MULTILINE)
_FENCE = re.compile(r"(^```.*?^```$)", flags=re.DOTALL | re.MULTILINE)


def site_name(path: Path) -> str:
    """Return the name in the site of a page or a file of the repository."""
    known = path.relative_to(ROOT).as_posix()
    return OUTSIDE.get(known) or known.removeprefix("docs/")


def pages() -> list[Path]:
    """Return every page of the site, by its path in the repository."""
    return [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / each for each in OUTSIDE)]


def with_links_of_the_site(page: Path, copy: Callable[[Path], None]) -> str:
    """Return the text of a page with links that hold in the site.

    Files that are linked and no pages are given to `copy`. Code blocks stay as they are.
    """

    def relink(found: re.Match[str]) -> str:
        before, target, after = found.groups()
        path, mark, heading = target.partition("#")
        linked = (page.parent / path).resolve()
        if "://" in target or not path or not linked.is_file():
            return found[0]
        if linked not in pages():
            copy(linked)
        return f"{before}{site_name(linked)}{mark}{heading}{after}"

    pieces = _FENCE.split(page.read_text(encoding="utf-8"))
    return "".join(
        piece if piece.startswith("```") else _LINK.sub(relink, piece) for piece in pieces
    )


def navigation(index: str) -> list[dict[str, object]]:
    """Return the sections of an index and their pages, as `nav` of mkdocs.yml has them.

    A section is a heading of the second level, a page an item of a list that begins with a link.
    """
    sections = [section.partition("\n") for section in index.split("\n## ")[1:]]
    return [
        {title: [{name: target} for name, target in _ENTRY.findall(body)]}
        for title, _, body in sections
        if _ENTRY.search(body)
    ]


def stage(folder: Path) -> Path:
    """Write the pages of the site and its configuration into a folder; return the latter."""
    staged = folder / "pages"
    shutil.rmtree(folder, ignore_errors=True)
    staged.mkdir(parents=True)

    def copy(linked: Path) -> None:
        to = staged / site_name(linked)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(linked, to)

    for page in pages():
        text = with_links_of_the_site(page, copy)
        (staged / site_name(page)).write_text(text, encoding="utf-8")
    for name in ("site.css", "site.js"):
        copy(ROOT / "docs" / name)
    index = (staged / "index.md").read_text(encoding="utf-8")
    nav = [{"Home": "index.md"}, *navigation(index)]
    config = folder / "mkdocs.yml"
    added = f"docs_dir: pages\nsite_dir: site\nnav: {nav!r}\n"
    config.write_text(CONFIG.read_text(encoding="utf-8") + added, encoding="utf-8")
    return config


def let_search_work_from_disk(site: Path) -> None:
    """Write search.js, which Zensical's script loads in a page that is opened from disk.

    Such a page may not fetch the index, nor start a worker from a file: here are both as text.
    """
    (worker,) = (site / "assets" / "javascripts" / "workers").glob("search.*.js")
    index = (site / "search.json").read_text(encoding="utf-8")
    (site / "search.js").write_text(
        f"var __index = {index};\n"
        f"const searchWorker = {json.dumps(worker.read_text(encoding='utf-8'))};\n"
        "window.Worker = class extends Worker {\n"
        "  constructor() {\n"
        "    super(URL.createObjectURL(new Blob([searchWorker], { type: 'text/javascript' })));\n"
        "  }\n"
        "};\n",
        encoding="utf-8",
    )


def build(folder: Path = BUILD) -> subprocess.CompletedProcess[str]:
    """Build the site below a folder; the result has what Zensical printed, and its exit code."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file"]
    done = subprocess.run(
        [*command, os.fspath(stage(folder))],
        env={**os.environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    if not done.returncode:
        let_search_work_from_disk(folder / "site")
    return done


def main() -> int:
    """Build the site, print where it is, and return the exit code.

    The site of the last build is replaced by a whole one, and kept if there is a warning.
    """
    BUILD.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD.parent, prefix="docs-") as parent:
        folder = Path(parent) / BUILD.name
        done = build(folder)
        if done.returncode:
            sys.stderr.write(done.stdout)
            return 1
        shutil.rmtree(BUILD, ignore_errors=True)
        folder.replace(BUILD)
    sys.stdout.write(f"{os.path.relpath(BUILD / 'site' / 'index.html')}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
