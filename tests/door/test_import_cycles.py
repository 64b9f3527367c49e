"""No module of the package imports itself through others, not even for type checking."""

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


def test_no_module_imports_itself_through_others() -> None:
    graph = grimp.build_graph("tokentape", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}

    assert len(imports) > 100
    assert list(cycles(imports)) == []


def test_cycles_are_found_with_all_their_modules() -> None:
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set[str]()}

    assert list(cycles(imports)) == [["a", "b", "c"]]
