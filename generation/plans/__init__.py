"""Experiment plans: investigations as data, and the functions that load and run them."""

from tokentape.generation.plans.files import load_plan, shipped_plans
from tokentape.generation.plans.memory_plan import MemoryPlan
from tokentape.generation.plans.placeholders import resolve
from tokentape.generation.plans.plan import ExperimentPlan, PlanTurn
from tokentape.generation.plans.plan_memory import plan_memory
from tokentape.generation.plans.runner import (
    begin_plan,
    check_plan,
    plan_tools,
    run_plan,
    turns_for_model,
)

__all__ = (
    "ExperimentPlan",
    "MemoryPlan",
    "PlanTurn",
    "begin_plan",
    "check_plan",
    "load_plan",
    "plan_memory",
    "plan_tools",
    "resolve",
    "run_plan",
    "shipped_plans",
    "turns_for_model",
)
