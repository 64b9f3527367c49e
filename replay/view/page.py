"""One HTML file that shows a document of a recording: no server, no network, no build step."""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tokentape.recorder.escapes import visible

MODULES = (
    "packed.js",
    "numbers.js",
    "escapes.js",
    "dom.js",
    "shell.js",
    "run_view.js",
    "live.js",
    "start_fork.js",
    "theme.js",
    "token_code.js",
    "colors.js",
    "panel_parts.js",
    "cache_panel.js",
    "tracks_panel.js",
    "lineage_panel.js",
    "verdicts_panel.js",
    "diff_view.js",
    "diff_replies.js",
    "diff_page.js",
    "chunks.js",
    "strip.js",
    "tool_calls.js",
    "transcript.js",
    "inspector.js",
    "keyboard.js",
    "tabs.js",
    "header.js",
    "run_page.js",
    "runs_page.js",
    "main.js",
)
"""The scripts in the order of the page: each imports only earlier ones."""
STYLES = ("view.css", "panels.css", "served.css")

_IMPORT = re.compile(r'^import \{[^}\n]*\} from "\./\w+\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
# A browser ends or changes the script there, whatever JavaScript makes of it.
_ENDS_SCRIPT = re.compile(r"</script|<!--|<script", re.IGNORECASE)
_GZIP = 31


def view_page(document: Mapping[str, Any]) -> str:
    """Return the page of a document of kind "run" or "diff".

    The same document gives the same text. The page loads nothing: the document is in it as base64
    of gzip of JSON, and its content security policy allows its own script and style only.
    """
    return _page(_packed(document), title=_title(document), is_served=False, source="")


def served_page(document_path: str, *, title: str = "tokentape") -> str:
    """Return the page that fetches its document from a path of the server that it comes from.

    Raise ValueError if the path is no absolute path of the same server.
    """
    if not re.fullmatch(r"/(?!/)[\w./?=&~-]*", document_path, re.ASCII):
        raise ValueError(f"the document must be at a path such as /run/ID: {document_path!r:.200}")
    return _page("", title=visible(title), is_served=True, source=document_path)


def content_security_policy(*, is_served: bool) -> str:
    """Return the policy of the page: its own script and style by hash, and nothing else.

    A served page may also fetch from its own server.
    """
    connections = "'self'" if is_served else "'none'"
    return (
        f"default-src 'none'; script-src '{_hash(page_script())}'; "
        f"style-src '{_hash(page_style())}'; img-src data:; "
        f"connect-src {connections}; base-uri 'none'; form-action 'none'"
    )


@cache
def page_script() -> str:
    """Return the modules of the page as one script.

    Raise ValueError if a module has other imports and exports than lines of the usual form.
    """
    script = "\n".join(_EXPORT.sub("", _IMPORT.sub("", _asset(name))) for name in MODULES)
    odd = re.search(r"^\s*(import\b(?!\()|export\b).*$", script, re.MULTILINE)
    odd = odd or _ENDS_SCRIPT.search(script)
    if odd:
        raise ValueError(f"not possible in a script of the page: {odd.group()!r}")
    return script


@cache
def page_style() -> str:
    """Return the style sheet of the page."""
    return "\n".join(_asset(name) for name in STYLES)


def _page(packed: str, *, title: str, is_served: bool, source: str) -> str:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("view.html.jinja")).render(
        title=title,
        policy=content_security_policy(is_served=is_served),
        style=Markup(page_style()),
        script=Markup(page_script()),
        packed=packed,
        source=source,
    )


def _title(document: Mapping[str, Any]) -> str:
    if document["kind"] == "diff":
        names = [str(document[side].get("name") or document[side]["run_id"]) for side in ("a", "b")]
        return visible(" and ".join(names)) + " · tokentape diff"
    run = document["run"]
    return visible(str(run["name"] or run["run_id"])) + " · tokentape"


def _packed(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A lone surrogate has no UTF-8 form; JSON escapes it.
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    # Level 9, and no time in the header: the same document gives the same bytes.
    gzip = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    return base64.b64encode(gzip.compress(data) + gzip.flush()).decode("ascii")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _asset(name: str) -> str:
    return (files("tokentape.replay.view") / "assets" / name).read_text(encoding="utf-8")
