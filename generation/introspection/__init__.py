"""Looking into a model: its weights, and what it does with them."""

from generation.introspection.activations import ActivationMonitor
from generation.introspection.hidden_states import HiddenStateTap
from generation.introspection.weights import WeightInspector

__all__ = ("ActivationMonitor", "HiddenStateTap", "WeightInspector")
