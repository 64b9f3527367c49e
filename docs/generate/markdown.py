"""Texts of the code as Markdown: types, signatures, docstrings, and the lines under fields."""

import ast
import inspect
import re
import textwrap
import types
import typing
from typing import Annotated, Any

LINE_CHARS_MAX = 100
_CODE = re.compile(r"(`[^`]*`)")
_EXAMPLE = re.compile(r"^Examples?:\n((?:(?: +.*)?\n?)+)", flags=re.MULTILINE)


def page(title: str, about: str, *sections: str) -> str:
    """Return a page that names its origin, so that it is not edited by hand."""
    origin = "<!-- Made by `python -m docs.generate`. -->"
    return "\n\n".join([f"# {title}", origin, wrapped(about), *map(str.strip, sections)]) + "\n"


def wrapped(text: str) -> str:
    """Return a paragraph in lines that are no longer than those of the code."""
    return textwrap.fill(
        " ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False
    )


def prose(text: str) -> str:
    """Return a text of the code in which nothing but code spans is markup."""
    pieces = _CODE.split(text)
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([<*])", r"\\\1", piece) for piece in pieces
    )


def docstring(documented: object) -> str:
    """Return a docstring as Markdown: paragraphs, and its example as a block of code."""
    text = inspect.getdoc(documented) or ""
    found = _EXAMPLE.search(text)
    paragraphs = [prose(wrapped(each)) for each in _EXAMPLE.sub("", text).strip().split("\n\n")]
    if found:
        example = textwrap.dedent(found[1]).strip()
        paragraphs.append(f"```pycon\n{example}\n```")
    return "\n\n".join(paragraphs)


def type_name(hint: Any) -> str:
    """Return a type as code writes it, without modules and `Annotated`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is type(None):
        return "None"
    if hint is Ellipsis:
        return "..."
    if isinstance(hint, str | typing.ForwardRef):
        return hint if isinstance(hint, str) else hint.__forward_arg__
    if origin is Annotated:
        return type_name(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(map(type_name, inner)))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, inner))}]"
    if isinstance(hint, list):
        return f"[{', '.join(map(type_name, hint))}]"
    if getattr(origin, "__module__", "") == "numpy":
        return f"np.{origin.__name__}"
    if origin is not None:
        return f"{type_name(origin)}[{', '.join(map(type_name, inner))}]"
    return str(getattr(hint, "__name__", None) or str(hint).rpartition(".")[2])


def signature(name: str, function: Any, *, without_first: bool = False) -> str:
    """Return how a function is called, one parameter a line where one line is too short."""
    found = inspect.signature(function)
    given = list(found.parameters.values())[1 if without_first else 0 :]
    words: list[str] = []
    for index, each in enumerate(given):
        keyword_only = each.kind is inspect.Parameter.KEYWORD_ONLY
        before = given[index - 1].kind if index else None
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
        if keyword_only and before not in variadic:
            words.append("*")
        if before is inspect.Parameter.POSITIONAL_ONLY is not each.kind:
            words.append("/")
        words.append(_parameter(each))
    returned = found.return_annotation
    end = "" if returned is inspect.Signature.empty else f" -> {type_name(returned)}"
    line = f"{name}({', '.join(words)}){end}"
    if len(line) <= LINE_CHARS_MAX:
        return f"```python\n{line}\n```"
    lines = "".join(f"    {word},\n" for word in words)
    return f"```python\n{name}(\n{lines}){end}\n```"


def _parameter(parameter: inspect.Parameter) -> str:
    text = str(parameter).partition(":")[0].partition("=")[0].strip()
    if parameter.annotation is not inspect.Parameter.empty:
        text += f": {type_name(parameter.annotation)}"
    if parameter.default is inspect.Parameter.empty:
        return text
    value = repr(parameter.default)
    shown = "..." if value.startswith("<") else value
    return f"{text} = {shown}" if ":" in text else f"{text}={shown}"


def field_texts(cls: type) -> dict[str, str]:
    """Return the docstring under each field or member that a class declares, by its name."""
    (body,) = (
        node.body
        for node in ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        if isinstance(node, ast.ClassDef)
    )
    texts: dict[str, str] = {}
    for declared, below in zip(body, [*body[1:], ast.Pass()], strict=True):
        name = _declared_name(declared)
        if name:
            texts[name] = ""
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                texts[name] = inspect.cleandoc(str(below.value.value))
    return texts


def _declared_name(node: ast.stmt) -> str:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return ""


def item(name: str, text: str, kind: str = "") -> str:
    """Return an item of a list: a name in code, its type and its meaning."""
    head = f"- `{name}`" + (f" (`{kind}`)" if kind else "")
    meaning = " ".join(prose(text).split())
    return f"{head}: {meaning}" if meaning else head
