"""Interventions: changes of a model's activations, layer by layer and position by position."""

from tokentape.generation.interventions.controller import InterventionController, InterventionPlan
from tokentape.generation.interventions.hooks import apply_interventions
from tokentape.generation.interventions.intervention import (
    Intervention,
    can_rebuild,
    rebuild_intervention,
)
from tokentape.generation.interventions.tensors import tensor_from_bytes, tensor_to_bytes
from tokentape.generation.interventions.vectors import capture, contrast, mean_activation

__all__ = (
    "Intervention",
    "InterventionController",
    "InterventionPlan",
    "apply_interventions",
    "can_rebuild",
    "capture",
    "contrast",
    "mean_activation",
    "rebuild_intervention",
    "tensor_from_bytes",
    "tensor_to_bytes",
)
