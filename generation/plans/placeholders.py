"""Placeholders for weight names, so that a plan fits models of many architectures."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tokentape.generation.errors import PromptError

# Names of the matrix with which a component of a layer writes to the residual stream, usual first.
_OUTPUTS = {
    "mlp": (
        "down_proj",
        "mlp.c_proj",
        "dense_4h_to_h",
        "mlp.fc2",
        "fc2",
        "output_linear",
        "mlp.dense_2",
        "w2",
    ),
    "attention": (
        "o_proj",
        "attn.c_proj",
        "attn.out_proj",
        "self_attention.dense",
        "attention.dense",
        "self_attn.dense",
        "self_attn.out_proj",
        "linear_attn.out_proj",
    ),
    "mixer": ("mixer.out_proj", "out_proj"),
}
_KINDS = {
    "layer": ("mlp", "mixer", "attention"),
    "mlp": ("mlp",),
    "attention": ("attention",),
}
_PLACEHOLDER = re.compile(r"\{(\w+):([^{}]*)\}")
_NUMBERED = re.compile(r"^(.*?)\.(\d+)\.(.+)$")


def resolve(arguments: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return a tool's arguments with the model's weight names in place of placeholders.

    `{mlp:LAYER}` and `{attention:LAYER}` stand for the matrix with which that component of a layer
    writes to the residual stream, `{layer:LAYER}` for that of the MLP if there is one. LAYER is a
    number, `first`, `middle`, `last` or a depth such as `25%`. Raise PromptError if the model has
    no such weight.
    """
    weights = _Weights(model)
    return {name: _filled(value, weights) for name, value in arguments.items()}


class _Weights:
    """The weight names of a decoder's layers."""

    def __init__(self, model: Any) -> None:
        self.kind = str(getattr(model.config, "model_type", type(model).__name__))
        shapes = {name: tuple(each.shape) for name, each in model.named_parameters()}
        config = model.config.get_text_config(decoder=True)
        self.layers = _layers(shapes, getattr(config, "num_hidden_layers", None))

    def name(self, kind: str, layer: str) -> str:
        spelled = f"{{{kind}:{layer}}}"
        if kind not in _KINDS:
            raise PromptError(f"{spelled} is not a placeholder; there are {', '.join(_KINDS)}")
        if not self.layers:
            raise PromptError(f"{spelled}: cannot find the layers of this {self.kind} model")
        number = self._number(layer, spelled)
        for component in _KINDS[kind]:
            found = _output(self.layers[number], component)
            if found:
                return found
        held = ", ".join(sorted({name.removesuffix(".weight") for name in self.layers[number]}))
        raise PromptError(
            f"{spelled}: layer {number} of this {self.kind} model has no {kind} weight that "
            f"writes to the residual stream; it has {held}"
        )

    def _number(self, layer: str, spelled: str) -> int:
        count = len(self.layers)
        named = {"first": 0, "middle": count // 2, "last": count - 1}
        if layer in named:
            return named[layer]
        depth = re.fullmatch(r"(\d{1,3})%", layer)
        if depth and int(depth[1]) <= 100:
            return round((count - 1) * int(depth[1]) / 100)
        if not re.fullmatch(r"\d{1,9}", layer):
            raise PromptError(
                f"{spelled} has no layer: write a number, first, middle, last, or a depth like 25%"
            )
        if int(layer) >= count:
            raise PromptError(
                f"{spelled}: the model has {count} layers, numbered from 0 to {count - 1}"
            )
        return int(layer)


def _layers(shapes: Mapping[str, tuple[int, ...]], count: int | None) -> list[dict[str, str]]:
    """Return for each layer its matrices' full names by their names inside the layer.

    A model may have several numbered module lists, such as an encoder's. The decoder is the list
    with as many layers as the config says and with the most matrices.
    """
    lists: dict[str, dict[int, dict[str, str]]] = {}
    for name, shape in shapes.items():
        numbered = _NUMBERED.match(name)
        if numbered and len(shape) >= 2:
            prefix, number, inside = numbered.groups()
            lists.setdefault(prefix, {}).setdefault(int(number), {})[inside] = name
    fitting = [each for each in lists.values() if count is None or len(each) == count]
    if not fitting:
        return []
    largest = max(fitting, key=lambda each: sum(map(len, each.values())))
    return [largest[number] for number in sorted(largest)]


def _output(layer: Mapping[str, str], component: str) -> str | None:
    bare = {inside.removesuffix(".weight"): name for inside, name in layer.items()}
    for ending in _OUTPUTS[component]:
        for inside in _shortest_first(bare):
            # Compare whole words between dots: `kv_o_proj` does not match `o_proj`.
            if inside == ending or inside.endswith(f".{ending}"):
                return bare[inside]
    return None


def _shortest_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=len)


def _filled(value: Any, weights: _Weights) -> Any:
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda found: weights.name(found[1], found[2]), value)
    if isinstance(value, Mapping):
        return {name: _filled(each, weights) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_filled(each, weights) for each in value]
    return value
