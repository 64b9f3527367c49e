"""Looking into a model: what its weights are like."""

from generation.introspection.weights import WeightInspector

__all__ = ("WeightInspector",)
