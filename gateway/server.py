"""Assembly and process life: the hot routes stand ahead of FastAPI, and one worker is one uvicorn server."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from random import Random
from typing import Any

from gateway.assignment import Serving
from gateway.caller import AsgiCaller, Receive, Scope, Send
from gateway.dialects import speech_at
from gateway.protocol import GatewayProtocol
from gateway.pipeline import Neighbours, Pipeline
from gateway.settings import CLIENT_KEEP_ALIVE, house_of
from gateway.wire import WireLane
from registry.records import Snapshot
from registry.settings import Settings

log = logging.getLogger("gateway")


class App:
    """The ASGI application of one worker: hot routes here, everything else to the control plane."""

    def __init__(self, settings: Settings, neighbours: Neighbours, snapshot: Snapshot | None = None) -> None:
        self.settings = settings
        self.neighbours = neighbours
        self.snapshot = snapshot
        self.pipeline: Pipeline | None = None

    def open(self) -> Pipeline:
        """Make the pipeline, inside the loop that will run it."""
        if self.pipeline is None:
            self.pipeline = Pipeline(
                house_of(self.settings),
                self.neighbours,
                WireLane(asyncio.get_running_loop()),
                clock=time.time,
                monotonic=time.monotonic,
                random=Random(),  # noqa: S311 - ids and load balancing, not secrets
            )
            if self.snapshot is not None:
                self.pipeline.serving = Serving(self.snapshot)
        return self.pipeline

    def use(self, snapshot: Snapshot) -> None:
        """Serve from this snapshot: requests that begin from now on."""
        self.snapshot = snapshot
        if self.pipeline is not None:
            self.pipeline.serving = Serving(snapshot)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and (speech := speech_at(scope["path"])) is not None:
            caller = AsgiCaller(scope, receive, send)
            await caller.run(self.open().carry(caller, speech))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self.pipeline is not None:
            self.pipeline.wire.close()
        await send({"type": "lifespan.shutdown.complete"})


def create_app(settings: Settings, *, neighbours: Neighbours | None = None, snapshot: Snapshot | None = None) -> App:
    """The application for any ASGI server."""
    return App(settings, neighbours or Neighbours(), snapshot)


def serve(settings: Settings, workers: int | None = None, **kwargs: Any) -> None:
    """Run the gateway until it is told to stop."""
    import uvicorn

    app = create_app(settings, **kwargs)
    protocol = type("Protocol", (GatewayProtocol,), {"gateway": app})
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=protocol,
        ws="none",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=CLIENT_KEEP_ALIVE,
        backlog=4096,
    )
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    uvicorn.Server(config).run()
