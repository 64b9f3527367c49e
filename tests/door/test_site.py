"""The documentation builds as a site without a warning, and a page of it needs no network."""

import re
from pathlib import Path

import pytest

from docs import make_site

INDEX = (make_site.ROOT / "docs" / "index.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("docs")
    done = make_site.build(folder)

    assert done.returncode == 0, done.stdout
    return folder / "site"


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    names = {make_site.site_name(page).replace(".md", ".html") for page in make_site.pages()}
    home = (site / "index.html").read_text(encoding="utf-8")
    links = re.findall(r"<a href=\"(?:\./)?([^\"#]*)\" class=\"md-nav__link", home)

    assert {path.name for path in site.glob("*.html")} == names | {"404.html"}
    assert set(links) - {""} >= names - {"index.html"}


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    loaded = [
        f"{page.name}: {tag}"
        for page in site.rglob("*.html")
        for tag in re.findall(r"<(?:script|link|img|iframe)[^>]*>", page.read_text("utf-8"))
        if re.search(r"(?:src|href)=\"?(?:https?:)?//", tag) and "canonical" not in tag
    ]
    styles = [path.read_text("utf-8") for path in site.rglob("*.css")]

    assert loaded == []
    assert styles
    assert not any(re.search(r"(?:url\(|@import)[\"' ]*(?:https?:)?//", each) for each in styles)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The index of a small documentation that is built in place of the project's."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("caches.md", "site.css", "site.js"):
        (docs / name).write_text("# Caches\n")
    (tmp_path / "README.md").write_text("# About\n")
    monkeypatch.setattr(make_site, "ROOT", tmp_path)
    monkeypatch.setattr(make_site, "BUILD", tmp_path / "build" / "docs")
    monkeypatch.setattr(make_site, "OUTSIDE", {"README.md": "about.md"})
    index = docs / "index.md"
    index.write_text("# Home\n\n## Start\n\n- [One](caches.md)\n")
    return index


@pytest.mark.parametrize("link", ["nowhere.md", "caches.md#nowhere", "../README.md#nowhere"])
def test_a_link_that_leads_nowhere_fails_the_build(link: str, small: Path, tmp_path: Path) -> None:
    small.write_text(f"{small.read_text()}\nSee [there]({link}).\n")
    done = make_site.build(tmp_path / "built")

    assert done.returncode == 1
    assert "1 issue found" in done.stdout


def test_a_site_is_replaced_by_a_whole_one_only(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = tmp_path / "build" / "docs" / "site"
    first = make_site.main()
    small.write_text(small.read_text().replace("Home", "Again"))
    second = make_site.main()
    small.write_text("# Broken\n\n[there](nowhere.md)\n")
    third = make_site.main()
    said = capsys.readouterr()

    assert [first, second, third] == [0, 0, 1]
    assert said.out.splitlines()[-1].endswith("build/docs/site/index.html")
    assert "page does not exist" in said.err
    assert "Again" in (built / "index.html").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["docs"]


def test_the_sections_of_the_index_are_those_of_the_navigation() -> None:
    text = "# A\n\n- [no](n.md)\n\n## One\n\n- [x](x.md): y\n- [z](z.md#q)\n\n## Two\n\n[w](w.md)\n"

    assert make_site.navigation(text) == [{"One": [{"x": "x.md"}]}]
    assert len(make_site.navigation(INDEX)) >= 5
