"""One description of both planes: FastAPI's of the control plane, completed with the records and with the data
plane.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.api.data_plane import DATA_PLANE_PATHS
from gateway.api.failures import ErrorAnswer
from gateway.feedback import FeedbackBody

_TEMPLATE = "#/components/schemas/{name}"
_described: dict[Any, None] = {ErrorAnswer: None, FeedbackBody: None}


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type that goes out; its parts are added to the components when the description is made."""
    _described[kind] = None
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_TEMPLATE)
    return schema


def gives(
    kind: Any, status: int = 200, *, missing: bool = False, refusals: bool = False
) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route: its answer, and the errors that it may give.

    ``missing``: what the path names may not exist. ``refusals``: it changes something, which may conflict or be
    refused.
    """
    error = {"content": {"application/json": {"schema": {"$ref": _TEMPLATE.format(name="ErrorAnswer")}}}}
    good = {"description": "Good", "content": {"application/json": {"schema": schema_of(kind)}}}
    responses: dict[int | str, dict[str, Any]] = {200: good, status: good}
    if status == 202:
        del responses[200]
    responses[400] = {"description": "The request cannot be understood", **error}
    responses[401] = {"description": "No key that is known", **error}
    responses[403] = {"description": "The key has the wrong role", **error}
    if missing or refusals:
        responses[404] = {"description": "Nothing of that name", **error}
    if refusals:
        responses[409] = {"description": "Somebody else was first: the message says what moved", **error}
        responses[422] = {"description": "Against a rule: asking again will not help", **error}
    responses[503] = {"description": "The registry does not answer; traffic is served on", **error}
    return responses


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        _, parts = msgspec.json.schema_components(list(_described), ref_template=_TEMPLATE)
        schemas.update(parts)
        for name in ("HTTPValidationError", "ValidationError"):  # the framework's own shape never leaves this house
            schemas.pop(name, None)
        for path in document["paths"].values():
            for operation in path.values():
                validation = operation.get("responses", {}).get("422", {})
                if "HTTPValidationError" in str(validation):
                    operation["responses"].pop("422")
        document["paths"].update(DATA_PLANE_PATHS)
        app.openapi_schema = document
    return app.openapi_schema
