"""The default tools, with which a model inspects itself."""

from collections.abc import Mapping
from typing import Any

from tokentape.generation.introspection.architecture import architecture_summary, list_layers
from tokentape.generation.introspection.inspector import Inspector, compact_activations
from tokentape.generation.introspection.spectrum import singular_values
from tokentape.generation.introspection.statistics import round_floats
from tokentape.generation.introspection.weights import compact_weights
from tokentape.generation.models.loading import LoadedModel
from tokentape.generation.tools.interface import ToolInterface, ToolView

# The view is rounded also if it is full; the payload has every digit.
_VIEW_DIGITS = 5
# Recomputing a long conversation takes minutes.
_SECONDS_MAX = 600.0


class IntrospectionTools(ToolInterface):
    """The default tools. An investigation binds `inspector` to its conversation."""

    def __init__(self, lm: LoadedModel) -> None:
        self.inspector = Inspector(lm)
        tools = _Tools(self.inspector)
        super().__init__(
            [
                tools.get_weight_statistics,
                tools.get_activation_statistics,
                tools.get_architecture_summary,
                tools.list_layers,
                tools.get_singular_values,
                tools.get_attention_patterns,
                tools.get_logit_lens,
            ],
            seconds_max=_SECONDS_MAX,
        )


def default_tools(lm: LoadedModel) -> IntrospectionTools:
    """Return tools with which a model inspects its own weights, activations and attention.

    In an `Investigation` they see the conversation that the model is in.

    Example:
        >>> import tokentape as tt
        >>> tools = tt.default_tools(lm)
        >>> tools.names[:2]
        ('get_weight_statistics', 'get_activation_statistics')
        >>> result = tools.call("list_layers", {"pattern": "*.0.mlp.up_proj.weight"})
        >>> result.content
        '{"matching": 1, "layers": {"model.layers.0.mlp.up_proj.weight": [96, 64]}}'
    """
    return IntrospectionTools(lm)


class _Tools:
    """The tool functions. The model reads their docstrings and the views of their results."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector

    def get_weight_statistics(self, layer_name: str | list[str], compact: bool = True) -> ToolView:
        """
        Statistics of the weights of one or more of your own layers.

        Args:
            layer_name: The full name of a weight tensor, or a list of such names.
            compact: True (the default) for the essential numbers only; use it on several layers.
        """
        weights = self._inspector.weights
        names = [layer_name] if isinstance(layer_name, str) else layer_name
        full = weights.get_weight_statistics(layer_name, compact=False)
        return ToolView(
            view=_shortened(full, compact_weights if compact else None),
            payload=full,
            tensors=tuple(weights.describe(name) for name in names),
        )

    def get_activation_statistics(
        self, layer_name: int | str | list[int | str], compact: bool = True, recompute: bool = False
    ) -> ToolView:
        """
        Statistics of the outputs of one or more of your own layers in this conversation.

        Args:
            layer_name: A layer number such as "3", a full module name, or a list of these.
            compact: True (the default) for the essential numbers only; use it on several layers.
            recompute: True to process the whole conversation again; False is the default.
        """
        full = self._inspector.get_activation_statistics(
            layer_name, compact=False, recompute=recompute
        )
        return ToolView(
            view=_shortened(full, compact_activations if compact else None), payload=full
        )

    def get_architecture_summary(self) -> ToolView:
        """
        Your architecture: sizes, kinds of layers, and numbers of parameters.
        """
        return _plain(architecture_summary(self._inspector.model))

    def list_layers(self, pattern: str | None = None) -> ToolView:
        """
        The names and shapes of your weight tensors.

        Args:
            pattern: A glob such as "*.3.mlp.*", or a regular expression; by default all, in groups.
        """
        return _plain(list_layers(self._inspector.model, pattern))

    def get_singular_values(self, layer_name: str, top: int = 10) -> ToolView:
        """
        The largest singular values of a weight matrix, its stable rank and its effective rank.

        Args:
            layer_name: The full name of a weight matrix.
            top: How many singular values; 10 by default.
        """
        weights = self._inspector.weights
        name, tensor = weights.tensor(layer_name)
        full = singular_values(name, tensor, top=top)
        return ToolView(
            view=round_floats(full, _VIEW_DIGITS), payload=full, tensors=(weights.describe(name),)
        )

    def get_attention_patterns(
        self, layer: int | str, head: int | None = None, position: int = -1, top: int = 8
    ) -> ToolView:
        """
        The tokens of this conversation that an attention head attends to at one position.

        Args:
            layer: A layer number such as "3", or the full name of an attention module.
            head: The number of a head; without one (the default) the mean of all heads.
            position: The position that attends; -1 (the default) is the last.
            top: How many tokens to name; 8 by default.
        """
        return _plain(
            self._inspector.get_attention_patterns(layer, head, position=position, top=top)
        )

    def get_logit_lens(self, layers: list[int | str], position: int = -1, top: int = 5) -> ToolView:
        """
        The next tokens that you would predict at some of your layers.

        Args:
            layers: Layer numbers such as "3", or full names of layers.
            position: The position after which the token comes; -1 (the default) is the last.
            top: How many tokens to name for each layer; 5 by default.
        """
        return _plain(self._inspector.get_logit_lens(layers, position=position, top=top))


def _plain(value: Mapping[str, Any]) -> ToolView:
    return ToolView(view=value, payload=value)


def _shortened(full: Any, shorten: Any) -> Any:
    if isinstance(full, list):
        return [_shortened(each, shorten) for each in full]
    return shorten(full) if shorten is not None else round_floats(full, _VIEW_DIGITS)
