"""The page: one file, the same bytes each time, with nothing in it but its own script and style."""

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.replay.view.made_document import made_document
from tokentape.replay.view import page as page_module
from tokentape.replay.view.page import (
    MODULES,
    STYLES,
    content_security_policy,
    page_script,
    page_style,
    served_page,
    view_page,
)
from tokentape.replay.view.page import _asset as asset

_FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|"
    r"createContextualFragment|parseFromString|https?://(?!www\.w3\.org/2000/svg)|\bon\w+=[\"']"
)
_TOP_LEVEL = re.compile(
    r"^(?:export )?(?:async )?(?:function\*?|class|const|let|var) (?:\{([^}]*)\}|(\w+))",
    re.MULTILINE,
)
_HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "<!--",
    "\u202egnp.exe\u2066",
    "\ud800",
    "\x1b[31m\x00",
    "<0xE1><0x88>",
)


class _Page(HTMLParser):
    """The elements of a page, and the text of its scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = f"{tag} {dict(attrs).get('type') or ''}".strip()

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data


def _document_of(page: str) -> Any:
    data = _Page(page).texts["script application/octet-stream"]
    return json.loads(gzip.decompress(base64.b64decode(data)))


def test_a_document_gives_the_same_page_each_time_and_is_in_it_whole() -> None:
    document = made_document()

    page = view_page(document)

    assert page == view_page(made_document())
    assert _document_of(page) == json.loads(json.dumps(document))


@pytest.mark.parametrize("is_served", [False, True])
def test_the_policy_allows_the_script_and_style_of_the_page_and_nothing_else(
    is_served: bool,
) -> None:
    page = _Page(served_page("/run/1") if is_served else view_page(made_document()))

    [policy] = [
        attributes["content"] or ""
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    hashes = [
        f"'sha256-{base64.b64encode(hashlib.sha256(page.texts[key].encode()).digest()).decode()}'"
        for key in ("script module", "style")
    ]

    connections = "'self'" if is_served else "'none'"
    assert policy == content_security_policy(is_served=is_served)
    assert policy == (
        f"default-src 'none'; script-src {hashes[0]}; style-src {hashes[1]}; img-src data:; "
        f"connect-src {connections}; base-uri 'none'; form-action 'none'"
    )
    assert [tag for tag, _ in page.tags].count("script") == 2


def test_no_element_of_the_page_loads_or_links_to_anything() -> None:
    for tag, attributes in _Page(view_page(made_document())).tags:
        assert not {"src", "action", "srcset", "style"} & attributes.keys(), tag
        assert attributes.get("href", "data:,") == "data:,"
        assert not [name for name in attributes if name.startswith("on")]


@pytest.mark.parametrize("name", [*MODULES, *STYLES])
def test_an_asset_makes_no_markup_of_text_and_names_no_address(name: str) -> None:
    assert not _FORBIDDEN.findall(asset(name))
    assert not re.findall(r"@import|url\((?!#)", asset(name)) or name.endswith(".js")
    assert asset(name).count("\n") <= 400


def test_modules_import_earlier_ones_and_share_no_top_level_name() -> None:
    owners: dict[str, str] = {}
    for place, module in enumerate(MODULES):
        text = asset(module)
        for names, imported in re.findall(r'^import \{(.*)\} from "\./(.*)";$', text, re.MULTILINE):
            assert imported in MODULES[:place], f"{module} imports {imported}"
            for name in names.split(","):
                assert owners.get(name.strip()) == imported, f"{module}: {name} of {imported}"
        for several, one in _TOP_LEVEL.findall(text):
            for name in (several or one).split(","):
                known = owners.setdefault(name.strip(), module)
                assert known == module, f"{name} is in {known} and in {module}"
    assert "import {" not in page_script()


@pytest.mark.parametrize("text", _HOSTILE)
def test_a_hostile_text_is_only_in_the_packed_document(text: str) -> None:
    document = made_document((text, *"abc"))
    document["run"]["model"] = text
    document["turns"][0]["rounds"][0]["text"] = text

    page = view_page(document)

    assert _document_of(page) == document
    assert text not in page.replace(page_script(), "")
    assert _Page(page).texts["script module"] == page_script()


@pytest.mark.parametrize("name", _HOSTILE)
def test_a_hostile_name_of_a_run_is_text_in_the_title(name: str) -> None:
    document = made_document()
    document["run"]["name"] = name

    page = _Page(view_page(document))

    assert page.texts["title"].isprintable()
    assert [tag for tag, _ in page.tags] == [
        tag for tag, _ in _Page(view_page(made_document())).tags
    ]


@pytest.mark.parametrize("path", ["", "x", "//host/x", "https://host", '/x" onload=', "/x y"])
def test_a_served_page_fetches_only_from_a_path_of_its_own_server(path: str) -> None:
    with pytest.raises(ValueError, match="path such as"):
        served_page(path)


def test_the_style_has_colours_for_light_and_dark() -> None:
    assert "color-scheme: light" in page_style()
    assert "color-scheme: dark" in page_style()


def test_a_page_without_its_document_is_small() -> None:
    assert len(served_page("/run/1")) < 300_000


def test_every_asset_is_in_the_page() -> None:
    folder = Path(page_module.__file__).parent / "assets"
    names = {each.name for each in folder.iterdir()} - {"view.html.jinja"}

    assert names == {*MODULES, *STYLES}


def test_modules_import_only_names_that_are_exported_and_used() -> None:
    for module in MODULES:
        text = asset(module)
        for names, imported in re.findall(r'^import \{(.*)\} from "\./(.*)";$', text, re.MULTILINE):
            for name in (each.strip() for each in names.split(",")):
                exported = rf"^export (?:async )?(?:function|class|const) {name}\b"
                assert re.search(exported, asset(imported), re.MULTILINE), f"{imported}: {name}"
                assert len(re.findall(rf"\b{name}\b", text)) > 1, f"{module} does not use {name}"
