"""The clock: what happens while nobody is asking. The story is ``schedule.py``; names are loaded when first used."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.checks import check as check
    from jobs.errors import JobsError as JobsError
    from jobs.now import run_job as run_job
    from jobs.schedule import JOBS as JOBS
    from jobs.scheduler import scheduler as scheduler
    from jobs.worker import worker as worker

_MODULE_OF = {
    "JOBS": "schedule",
    "JobsError": "errors",
    "check": "checks",
    "run_job": "now",
    "scheduler": "scheduler",
    "worker": "worker",
}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - the table above is the list


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'jobs' has no attribute {name!r}")
    value = getattr(import_module(f"jobs.{module}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """The package, where a public function wins over the submodule of its name: ``jobs.worker`` is the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _MODULE_OF:
            return  # the import system binds a submodule to its parent; __getattr__ finds the function instead
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
