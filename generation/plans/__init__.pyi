# The names of the folder and where each is defined: see `__init__.py`.
from .batch_size import (
    BatchSize as BatchSize,
    fitting_batch as fitting_batch,
)
from .files import (
    load_plan as load_plan,
    plan_tools_path as plan_tools_path,
    shipped_plans as shipped_plans,
)
from .many_runs import (
    resume_many as resume_many,
    run_many as run_many,
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
from .planned_runs import (
    PlanResult as PlanResult,
    PlannedRun as PlannedRun,
    RunUpdate as RunUpdate,
)
from .runner import (
    begin_plan as begin_plan,
    check_plan as check_plan,
    plan_tools as plan_tools,
    run_plan as run_plan,
    turns_for_model as turns_for_model,
)
