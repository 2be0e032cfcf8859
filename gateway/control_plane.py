"""Mounts the control plane on a worker. The only file of the hot side that imports FastAPI, and it is imported late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from gateway.api.assembly import create_api
from gateway.api.control import Control, Readiness

if TYPE_CHECKING:
    from gateway.app import Asgi
    from gateway.worker import Worker


def control_plane(worker: Worker) -> Asgi:
    """The FastAPI application over what this worker holds."""

    def readiness() -> Readiness:
        ready, reason = worker.ready()
        return Readiness(ready, worker.snapshot_age(), worker.registry_up, reason)

    control = Control(
        registry=worker.registry,
        keys=worker.keys,
        ids=lambda: worker.ids,
        metrics=worker.metrics,
        readiness=readiness,
        clock=worker.clock,
        metrics_key=worker.settings.gateway.metrics_key,
    )
    gateway = worker.settings.gateway
    api = create_api(control, control_plane=gateway.control_plane, console=gateway.console)
    # behind TLS the console's cookie is Secure; who says so is believed only from the addresses named in the settings
    return cast("Asgi", ProxyHeadersMiddleware(cast("Any", api), trusted_hosts=gateway.forwarded_allow))
