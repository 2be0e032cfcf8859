"""What the routes stand on, and who may use them.

Keys come from the snapshot in memory, so that a revoked operator is out within a second and a down registry locks
nobody out of reading what this process knows. A viewer reads; only an operator changes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Path, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from gateway.api.failures import failure
from gateway.auth import KeyRing, bearer
from gateway.feedback import SignedIds
from gateway.metrics import GatewayMetrics
from registry import KeyRecord, Registry


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether this process can serve: it can as soon as it has any snapshot, fresh or from the file."""

    ready: bool
    snapshot_age: float | None
    registry_up: bool
    reason: str = ""


@dataclass(slots=True)
class Control:
    """What the control plane needs from the process that it lives in.

    ``registry`` gives the connected registry or raises `RegistryUnavailable`; ``ids`` the signer of exchange ids,
    or None while the fleet's secret is not known yet.
    """

    registry: Callable[[], Awaitable[Registry]]
    keys: KeyRing
    ids: Callable[[], SignedIds | None]
    metrics: GatewayMetrics
    readiness: Callable[[], Readiness]
    clock: Callable[[], float]
    version: str = "0.1.0"
    metrics_key: bool = False
    """Ask for an operator's or viewer's key on ``/metrics``."""


def control_of(request: Request) -> Control:
    """The `Control` of the application that serves this request."""
    control: Control = request.app.state.control
    return control


async def registry_of(request: Request) -> Registry:
    """The registry, connected. Raises `RegistryUnavailable`."""
    return await control_of(request).registry()


Control_ = Annotated[Control, Depends(control_of)]
Registry_ = Annotated[Registry, Depends(registry_of)]

_bearer = HTTPBearer(auto_error=False, scheme_name="key", description="a gateway key")
_header = APIKeyHeader(name="x-api-key", auto_error=False, scheme_name="x-api-key", description="a gateway key")
_Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
_Header = Annotated[str | None, Depends(_header)]


def presented(authorization: HTTPAuthorizationCredentials | None, x_api_key: str | None) -> bytes:
    """The token that came with the request."""
    return bearer(f"Bearer {authorization.credentials}" if authorization else None, x_api_key)


def viewer(control: Control_, authorization: _Bearer, x_api_key: _Header) -> KeyRecord:
    """The operator or viewer who asks. 401 without a key that lives, 403 for a caller's."""
    token = presented(authorization, x_api_key)
    key = control.keys.find(token)
    if key is None:
        raise failure(
            401,
            "This route needs an operator's key: send it as 'Authorization: Bearer KEY'."
            if not token
            else "This key is not known, or it is revoked.",
            type="authentication_error",
            code="invalid_api_key",
        )
    if key.role == "caller":
        raise failure(
            403,
            "A caller's key cannot see the control plane: use an operator's.",
            type="permission_error",
            code="wrong_role",
        )
    return key


def operator(key: Annotated[KeyRecord, Depends(viewer)]) -> KeyRecord:
    """The operator who asks. 403 for a viewer."""
    if key.role != "operator":
        raise failure(403, "A viewer's key only reads: use an operator's.", type="permission_error", code="wrong_role")
    return key


def caller(control: Control_, authorization: _Bearer, x_api_key: _Header) -> KeyRecord:
    """The caller who asks. 401 without a caller's key that lives."""
    key = control.keys.caller(presented(authorization, x_api_key))
    if key is None:
        raise failure(401, "Incorrect API key provided.", type="authentication_error", code="invalid_api_key")
    return key


Viewer = Annotated[KeyRecord, Depends(viewer)]
Operator = Annotated[KeyRecord, Depends(operator)]
Caller = Annotated[KeyRecord, Depends(caller)]


def request_id(
    key: Viewer,
    idempotency_key: Annotated[str, Header(max_length=200, description="the same id again changes nothing")] = "",
    x_request_id: Annotated[str, Header(max_length=200, description="used when there is no idempotency-key")] = "",
) -> str:
    """The caller's id of this request, made the key's own; empty when none came."""
    given = idempotency_key or x_request_id
    return f"{key.id}:{given}" if given else ""


RequestId = Annotated[str, Depends(request_id)]
DomainName = Annotated[
    str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="the domain's name", examples=["support"])
]
VersionNumber = Annotated[int, Path(ge=1, le=2**31 - 1, description="the version's number")]
Id = Annotated[str, Path(pattern=r"^[A-Za-z0-9._:-]{1,200}$", description="its id")]
TaskName = Annotated[
    str, Path(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f/]+$", description="the task's name")
]


def scoped(request_id: str, kind: str) -> str:
    """The request id of one kind of change: the same header on two routes is two requests."""
    return f"{kind}:{request_id}" if request_id else ""
