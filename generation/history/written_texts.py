"""Whether a rendered text contains the contents of messages."""

import json
from collections.abc import Iterable, Iterator

from tokentape.generation.errors import PromptError
from tokentape.generation.hf.control_tokens import unescape


def is_written(content: str, rendered: str) -> bool:
    """Return whether a template wrote a content, perhaps stripped or escaped."""
    return any(each in rendered for each in _spellings(content))


def check_written(contents: Iterable[tuple[str, str]], rendered: str) -> None:
    """Raise PromptError if the rendered text leaves out a content.

    `contents` are pairs of a description, for the error, and a content.
    """
    for description, content in contents:
        if not is_written(unescape(content), rendered):
            raise PromptError(
                f"the chat template leaves out {description}, or changes it: nothing is recorded. "
                "Render the conversation with the tokenizer's apply_chat_template to see what it "
                "writes; give the text otherwise, or load the tokenizer with another chat_template"
            )


def _spellings(content: str) -> Iterator[str]:
    stripped = content.strip()
    yield stripped
    for ascii_only in (False, True):
        quoted = json.dumps(stripped, ensure_ascii=ascii_only)[1:-1]
        yield quoted
        # A string in a JSON string, e.g. the content of a message that is quoted as a whole.
        yield json.dumps(quoted, ensure_ascii=ascii_only)[1:-1]
        yield quoted.translate(_HTML_SAFE)
    yield stripped.translate(_HTML)


_HTML_SAFE = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&'"})
"""The escapes of Jinja's own `tojson`."""
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&#39;", '"': "&#34;"})
"""The escapes of Jinja's `escape`."""
