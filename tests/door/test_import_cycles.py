"""No module and no folder is in an import cycle, not even for type checking."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

import grimp


def cycles(imports: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Yield the strongly connected groups of two or more modules (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> Iterator[list[str]]:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for imported in sorted(imports[module]):
            if imported not in order:
                yield from visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in stack:
                lowest[module] = min(lowest[module], order[imported])
        if lowest[module] == order[module]:
            start = stack.index(module)
            group = stack[start:]
            del stack[start:]
            if len(group) > 1:
                yield sorted(group)

    for module in sorted(imports):
        if module not in order:
            yield from visit(module)


def imports_between(parts: int) -> dict[str, set[str]]:
    """Return the imports between modules, whose names are cut to a number of parts.

    With three parts, a node is a folder of a room or a file of the room itself.
    """
    graph = grimp.build_graph("tokentape", cache_dir=None)
    found: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        start = ".".join(module.split(".")[:parts])
        imported = graph.find_modules_directly_imported_by(module)
        found[start] |= {".".join(each.split(".")[:parts]) for each in imported} - {start}
    return found


def test_no_module_imports_itself_through_others() -> None:
    imports = imports_between(parts=99)

    assert len(imports) > 100
    assert list(cycles(imports)) == []


def test_no_folder_of_a_room_imports_itself_through_others() -> None:
    imports = imports_between(parts=3)
    # A room's own `__init__` imports from its folders.
    rooms = {name for name in imports if name.count(".") < 2}
    between = {name: ends - rooms for name, ends in imports.items() if name not in rooms}

    assert len(between) > 50
    assert list(cycles(between)) == []


def test_cycles_are_found_with_all_their_modules() -> None:
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set[str]()}

    assert list(cycles(imports)) == [["a", "b", "c"]]
