"""Puts the routes together: one FastAPI application without middleware, without the framework's errors or pages."""

from __future__ import annotations

from fastapi import FastAPI

from gateway.api import domains, failures, kept, moves, people, plane, runs, versions
from gateway.api.control import Control

DESCRIPTION = (
    "An OpenAI-compatible gateway whose system prompts improve by themselves, safely. "
    "The data plane takes callers' keys, the control plane operators' (viewers' keys only read). "
    "Every error has OpenAI's shape."
)


def create_api(control: Control, *, control_plane: bool = True, console: bool = True) -> FastAPI:
    """The application behind the hot routes. Without ``control_plane``: feedback, health and metrics only."""
    app = FastAPI(
        title="metaspo-gateway",
        version=control.version,
        description=DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.control = control
    failures.install(app)
    app.include_router(plane.router)
    if control_plane:
        for module in (domains, versions, moves, runs, kept, people):
            app.include_router(module.router)
    if control_plane and console:
        from gateway.console import STATIC, console_router, install_pages

        app.include_router(console_router(control))
        app.mount("/console/static", STATIC)
        install_pages(app, control)
    plane.document(app)
    return app
