"""Stepping in: what is done to activations while the model runs, and where in the sequence."""

from tokentape.generation.interventions.controller import InterventionController, Plan
from tokentape.generation.interventions.hooks import intervening
from tokentape.generation.interventions.intervention import Intervention, is_rebuilt, rebuilt
from tokentape.generation.interventions.tensors import tensor_bytes, tensor_from
from tokentape.generation.interventions.vectors import capture, contrast, mean_activation

__all__ = (
    "Intervention",
    "InterventionController",
    "Plan",
    "capture",
    "contrast",
    "intervening",
    "is_rebuilt",
    "mean_activation",
    "rebuilt",
    "tensor_bytes",
    "tensor_from",
)
