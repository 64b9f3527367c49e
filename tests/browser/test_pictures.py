"""The pictures of the page in the documentation are of today's page, and small."""

import re
from pathlib import Path

import pytest

from docs.make_view_images import BYTES_MAX, ROOT, assets_sha256, drawn_of, pictures


@pytest.mark.parametrize("path", list(pictures()), ids=lambda path: path.stem)
def test_a_picture_is_of_the_page_as_its_script_and_style_make_it(path: Path) -> None:
    again = "draw it again: make demo, then python -m docs.make_view_images runs/demo.html"

    assert drawn_of(path) == assets_sha256(), again
    assert path.stat().st_size <= BYTES_MAX


def test_the_readme_and_the_page_of_view_show_every_picture() -> None:
    shown = {
        name
        for page in ("README.md", "docs/view.md")
        for name in re.findall(r"images/([\w-]+\.png)", (ROOT / page).read_text(encoding="utf-8"))
    }

    assert shown == {each.name for each in pictures()}
