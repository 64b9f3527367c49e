"""Observation of a model: weights, activations, attention and hidden states."""

from tokentape.generation.introspection.activations import ActivationMonitor
from tokentape.generation.introspection.hidden_states import HiddenStateTap
from tokentape.generation.introspection.weights import WeightInspector

__all__ = ("ActivationMonitor", "HiddenStateTap", "WeightInspector")
