"""Reading of YAML from files of strangers."""

from typing import Any

import yaml

_NODES_MAX = 20_000
"""A plan has a few hundred values; PyYAML takes about a second for this many."""
_NUMBER_CHARS_MAX = 100
"""PyYAML reads `1:2:3:…` to any length as one number, in quadratic time."""
_NUMBERS = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float"))


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text, in which every alias counts as the values it stands for.

    Raise YAMLError if it is not YAML or has too many values, ValueError and RecursionError for
    values that Python cannot hold.
    """
    loader = _BoundedLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with a limit on values after aliases are followed."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._composed = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node. Raise YAMLError if it is one too many."""
        self._composed += 1
        if self._composed > _NODES_MAX:
            raise yaml.YAMLError(f"it has more than {_NODES_MAX:,} values")
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias and node not in self._sizes:
            raise yaml.YAMLError("an alias leads back to a value that contains it")
        if node is not None and not is_alias:
            self._sizes[node] = self._size_of(node)
        return node

    def _size_of(self, node: yaml.Node) -> int:
        """Return how many values a node has; all nodes in it were composed before."""
        if isinstance(node, yaml.ScalarNode):
            if node.tag in _NUMBERS and len(node.value) > _NUMBER_CHARS_MAX:
                raise yaml.YAMLError(f"a number has {len(node.value):,} characters")
            return 1
        is_mapping = isinstance(node, yaml.MappingNode)
        parts = [part for pair in node.value for part in pair] if is_mapping else node.value
        size = 1 + sum(self._sizes[part] for part in parts)
        if size > _NODES_MAX:
            raise yaml.YAMLError(f"it has more than {_NODES_MAX:,} values")
        return size
