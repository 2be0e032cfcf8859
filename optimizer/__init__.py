"""The search: a seed prompt and examples in, a better system prompt with its evidence out.

It needs neither Redis nor the gateway. Names are loaded when first used, so importing the package costs nothing::

    from optimizer import load_search_file, search
    result = await search(load_search_file(Path("search.yaml")), clock=time.time)
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimizer.admission.lint import lint
    from optimizer.by_hand import measure_by_hand
    from optimizer.doctor import check
    from optimizer.errors import (
        BudgetSpent,
        DataError,
        EndpointDown,
        EndpointRefused,
        JournalError,
        ModelError,
        OptimizerError,
        RunBlocked,
        SearchFileError,
    )
    from optimizer.estimate import Estimate, estimate
    from optimizer.evaluation.evaluation import Evaluation
    from optimizer.follow import Follower
    from optimizer.gate.decision import GateResult, decide
    from optimizer.judges import judge_for
    from optimizer.models import Backend, open_backend
    from optimizer.records import (
        Budget,
        Completion,
        Event,
        Example,
        Finding,
        Interval,
        JudgeSpec,
        Ledger,
        LedgerRow,
        LoopSizes,
        Models,
        ModelSpec,
        Request,
        Rollout,
        Scores,
        SearchResult,
        SearchSpec,
        SearchTask,
        SplitScores,
        Standing,
        TaskScore,
        Verdict,
    )
    from optimizer.report import gate_page, gate_table, result_to_dict
    from optimizer.run.fingerprint import fingerprint
    from optimizer.search import search
    from optimizer.search_file import load_search_file
    from optimizer.settings import Settings
    from optimizer.tasks.folders import load_task, split_traffic

_HOME = {
    "by_hand": ("measure_by_hand",),
    "doctor": ("check",),
    "errors": (
        "BudgetSpent",
        "DataError",
        "EndpointDown",
        "EndpointRefused",
        "JournalError",
        "ModelError",
        "OptimizerError",
        "RunBlocked",
        "SearchFileError",
    ),
    "estimate": ("Estimate", "estimate"),
    "evaluation.evaluation": ("Evaluation",),
    "follow": ("Follower",),
    "gate.decision": ("GateResult", "decide"),
    "judges": ("judge_for",),
    "admission.lint": ("lint",),
    "models": ("Backend", "open_backend"),
    "records": (
        "Budget",
        "Completion",
        "Event",
        "Example",
        "Finding",
        "Interval",
        "JudgeSpec",
        "Ledger",
        "LedgerRow",
        "LoopSizes",
        "ModelSpec",
        "Models",
        "Request",
        "Rollout",
        "Scores",
        "SearchResult",
        "SearchSpec",
        "SearchTask",
        "SplitScores",
        "Standing",
        "TaskScore",
        "Verdict",
    ),
    "report": ("gate_page", "gate_table", "result_to_dict"),
    "run.fingerprint": ("fingerprint",),
    "search": ("search",),
    "search_file": ("load_search_file",),
    "settings": ("Settings",),
    "tasks.folders": ("load_task", "split_traffic"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Backend",
    "Budget",
    "BudgetSpent",
    "Completion",
    "DataError",
    "EndpointDown",
    "EndpointRefused",
    "Estimate",
    "Evaluation",
    "Event",
    "Example",
    "Finding",
    "Follower",
    "GateResult",
    "Interval",
    "JournalError",
    "JudgeSpec",
    "Ledger",
    "LedgerRow",
    "LoopSizes",
    "ModelError",
    "ModelSpec",
    "Models",
    "OptimizerError",
    "Request",
    "Rollout",
    "RunBlocked",
    "Scores",
    "SearchFileError",
    "SearchResult",
    "SearchSpec",
    "SearchTask",
    "Settings",
    "SplitScores",
    "Standing",
    "TaskScore",
    "Verdict",
    "check",
    "decide",
    "estimate",
    "fingerprint",
    "gate_page",
    "gate_table",
    "judge_for",
    "lint",
    "load_search_file",
    "load_task",
    "measure_by_hand",
    "open_backend",
    "result_to_dict",
    "search",
    "split_traffic",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'optimizer' has no attribute {name!r}")
    value = getattr(import_module(f"optimizer.{module}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """The package, where a public function wins over the submodule of its name: ``optimizer.search`` is one."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _MODULE_OF:
            return  # the import system binds a submodule to its parent; __getattr__ finds the function instead
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
