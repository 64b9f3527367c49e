"""Python literals: parsed, never evaluated."""

import ast
import warnings
from typing import Any

from tokentape.generation.tools.calls.json_text import MalformedText

_WORDS = {"true": True, "false": False, "null": None}


def read_literal(source: str) -> Any:
    """Return the value of a Python literal. Raise MalformedText, which names the fault."""
    statements = parse_python(source).body
    if len(statements) != 1 or not isinstance(statements[0], ast.Expr):
        raise MalformedText("it is not one Python value")
    return literal_of(statements[0].value)


def parse_python(source: str) -> ast.Module:
    """Return the syntax tree. Raise MalformedText if the text is not Python."""
    try:
        with warnings.catch_warnings():
            # An unknown escape in a string gives a SyntaxWarning.
            warnings.simplefilter("ignore")
            return ast.parse(source.strip())
    except SyntaxError as error:
        where = f" (line {error.lineno}, character {error.offset})" if error.lineno else ""
        raise MalformedText(f"it is not Python: {error.msg}{where}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise MalformedText(f"it is not Python: {error}") from None


def literal_of(node: ast.expr) -> Any:
    """Return the value of a literal or a word of JSON. Raise MalformedText for anything else."""
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.Name(id=name) if name in _WORDS:
            return _WORDS[name]
        case ast.UnaryOp(
            op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float() as number)
        ):
            return -number if isinstance(node.op, ast.USub) else number
        case ast.List() | ast.Tuple():
            return [literal_of(each) for each in node.elts]
        case ast.Dict():
            return _object_of(node)
    raise MalformedText(
        f"{ast.unparse(node)[:60]} is not a literal: write strings, numbers, True, False, None, "
        "or lists and dictionaries of these; nothing is evaluated"
    )


def _object_of(node: ast.Dict) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
            raise MalformedText("the keys of a dictionary must be strings")
        if key.value in fields:
            raise MalformedText(f"{key.value!r} is given twice")
        fields[key.value] = literal_of(value)
    return fields
