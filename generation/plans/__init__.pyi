# The names of the folder and where each is defined: see `__init__.py`.
from .files import (
    load_plan as load_plan,
    plan_tools_path as plan_tools_path,
    shipped_plans as shipped_plans,
)
from .memory_plan import (
    MemoryPlan as MemoryPlan,
)
from .placeholders import (
    resolve as resolve,
)
from .plan import (
    ExperimentPlan as ExperimentPlan,
    PlanTurn as PlanTurn,
)
from .runner import (
    begin_plan as begin_plan,
    check_plan as check_plan,
    plan_tools as plan_tools,
    run_plan as run_plan,
    turns_for_model as turns_for_model,
)
