"""Protocols: investigations as data, and what runs them."""

from tokentape.generation.plans.files import load_plan, shipped_plans
from tokentape.generation.plans.placeholders import resolve
from tokentape.generation.plans.plan import ExperimentPlan, PlanTurn
from tokentape.generation.plans.runner import chosen_tools, fitted_turns, run_plan

__all__ = (
    "ExperimentPlan",
    "PlanTurn",
    "chosen_tools",
    "fitted_turns",
    "load_plan",
    "resolve",
    "run_plan",
    "shipped_plans",
)
