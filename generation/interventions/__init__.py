"""Stepping in: what is done to activations while the model runs, and where in the sequence."""

from generation.interventions.hooks import intervening
from generation.interventions.intervention import Intervention, is_rebuilt, rebuilt
from generation.interventions.steering import Plan, Steering
from generation.interventions.tensors import tensor_bytes, tensor_from
from generation.interventions.vectors import capture, contrast, mean_activation

__all__ = (
    "Intervention",
    "Plan",
    "Steering",
    "capture",
    "contrast",
    "intervening",
    "is_rebuilt",
    "mean_activation",
    "rebuilt",
    "tensor_bytes",
    "tensor_from",
)
