"""The data plane's part of the description: routes that are served ahead of the framework, which knows nothing of
them.
"""

from __future__ import annotations

from typing import Any

_REQUEST_HEADERS = (
    ("x-metaspo-domain", "which domain; else the key's, then match rules, then `global`"),
    ("x-metaspo-task", "which task of the domain"),
    ("x-metaspo-unit", "the user or conversation that sticks to one arm"),
    ("x-metaspo-inject", "`off` leaves the body alone"),
    ("x-metaspo-sample", "`off` keeps nothing"),
)
_REPLY_HEADERS = (
    ("x-metaspo-exchange", "signed id for feedback"),
    ("x-metaspo-domain", "the domain whose prompt was served"),
    ("x-metaspo-version", "the version that was served; absent for arm `none`"),
    ("x-metaspo-arm", "`stable`, `canary`, `control`, `holdback` or `none`"),
)


def _operation(summary: str, description: str, *, injected: bool) -> dict[str, Any]:
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in _REPLY_HEADERS}
    anything: dict[str, Any] = {"schema": {"type": "object", "additionalProperties": True}}
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}}
    return {
        "tags": ["data plane"],
        "summary": summary,
        "description": description,
        "security": [{"key": []}, {"x-api-key": []}],
        "parameters": [
            {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
            for name, text in (_REQUEST_HEADERS if injected else _REQUEST_HEADERS[-1:])
        ],
        "requestBody": {"required": True, "content": {"application/json": anything}},
        "responses": {
            "200": {
                "description": "As the provider sent it, whole or as server-sent events",
                "headers": headers,
                "content": {"application/json": anything, "text/event-stream": {"schema": {"type": "string"}}},
            },
            "400": {"description": "The request cannot be understood", **error},
            "401": {"description": "No caller's key that is known", **error},
            "413": {"description": "The body is too large", **error},
            "429": {"description": "A limit of the key; `retry-after` says when to come back", **error},
            "502": {"description": "No (whole) answer from an upstream", **error},
            "504": {"description": "The upstream was too slow", **error},
        },
    }


def _get(summary: str, description: str, *parameters: str) -> dict[str, Any]:
    return {
        "tags": ["data plane"],
        "summary": summary,
        "description": description,
        "security": [{"key": []}, {"x-api-key": []}],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in parameters
        ],
        "responses": {
            "200": {"description": "Good"},
            "401": {"description": "No key"},
            "404": {"description": "Unknown"},
        },
    }


_THROUGH = (
    "The provider's own format, passed through byte for byte but for the system prompt. Errors of the provider keep "
)
_THROUGH += "their status, body and retry headers."

DATA_PLANE_PATHS: dict[str, Any] = {
    "/v1/chat/completions": {"post": _operation("Chat completions", _THROUGH, injected=True)},
    "/v1/responses": {"post": _operation("Responses", _THROUGH, injected=True)},
    "/v1/messages": {"post": _operation("Messages (Anthropic dialect)", _THROUGH, injected=True)},
    "/v1/completions": {"post": _operation("Legacy completions", _THROUGH + " Never injected.", injected=False)},
    "/v1/embeddings": {"post": _operation("Embeddings", _THROUGH + " Never injected.", injected=False)},
    "/v1/models": {"get": _get("Models", "The models that callers may ask for.")},
    "/v1/models/{id}": {"get": _get("One model", "Ids may hold `/` and `:`.", "id")},
}
