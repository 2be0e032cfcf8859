"""What a job is given: everything it may use, handed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jobs.errors import NoWork
from jobs.lease import Held
from jobs.metrics import Metrics
from jobs.places import Places
from registry import Domain, NotFound, Registry, Settings, Trigger


@dataclass(frozen=True)
class Work:
    """One firing in a worker's hands."""

    trigger: Trigger
    registry: Registry
    settings: Settings
    held: Held
    clock: Callable[[], float]
    ids: Callable[[], str]
    metrics: Metrics = field(default_factory=Metrics)
    places: Places = field(kw_only=True)

    @property
    def args(self) -> dict[str, Any]:
        return self.trigger.args

    async def domain(self) -> Domain:
        """The trigger's domain as it is now. Raises NoWork when it is gone."""
        try:
            return await self.registry.get_domain(self.trigger.domain)
        except NotFound as error:
            raise NoWork("domain_deleted", f"The domain {self.trigger.domain!r} does not exist (any more).") from error
