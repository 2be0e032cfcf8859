"""What a language model is to the search: something that completes a request. One small protocol, many kinds of
model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from optimizer.records import Completion, Request


@runtime_checkable
class Backend(Protocol):
    """A model in one role.

    ``identity`` names the model in the cache: two backends of the same identity give interchangeable replies.
    ``concurrency`` is how many requests may wait at once. ``retries`` counts attempts beyond the first, over all calls.
    """

    identity: str
    concurrency: int
    retries: int

    async def complete(self, request: Request) -> Completion:
        """The reply. Raises ``EndpointRefused`` or ``EndpointDown`` when the endpoint as a whole fails; what concerns
        this one request alone (refused, truncated, filtered) is a ``Completion``."""
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...


Note = Callable[[str], None]
"""Takes one sentence that a reader of the result should know, for example a parameter that the model refused."""
