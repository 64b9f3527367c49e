"""The tools of a client, as it describes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokentape.generation.checks import check_recordable
from tokentape.generation.errors import PromptError, ToolError
from tokentape.generation.tools.descriptions import describe_tool
from tokentape.generation.tools.interface import ToolInterface


def client_tools(schemas: Sequence[Mapping[str, Any]]) -> ToolInterface:
    """Return tools that only the client runs, with its descriptions of them.

    Raise PromptError for a schema that names no function, or whose arguments are not described as
    the properties of a JSON object, and for two with one name.
    """
    tools = [_schema(index, each) for index, each in enumerate(schemas)]
    names = [each["name"] for each in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PromptError(f"two tools are called {twice!r}: rename one")
    return ToolInterface.from_schemas(tools)


def _schema(index: int, given: Mapping[str, Any]) -> dict[str, Any]:
    where = f"tools[{index}]"
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        raise PromptError(f"{where} has no name")
    name, description = given["name"], given.get("description") or ""
    if not name.strip() or not isinstance(description, str):
        raise PromptError(f"{where} has no name, or a description that is no text")
    given_parameters = given.get("parameters") or {}
    if not isinstance(given_parameters, Mapping):
        raise PromptError(f"the parameters of {name!r} ({where}) are no JSON schema")
    parameters = {"type": "object", "properties": {}, **given_parameters}
    if not isinstance(parameters["properties"], Mapping):
        raise PromptError(f"the properties of {name!r} ({where}) are no object")
    schema = {"name": name, "description": description, "parameters": parameters}
    try:
        check_recordable("tools", schema)
        describe_tool(schema)
    except (AttributeError, KeyError, TypeError, RecursionError, ToolError):
        raise PromptError(f"the parameters of {name!r} ({where}) are no JSON schema") from None
    return schema
