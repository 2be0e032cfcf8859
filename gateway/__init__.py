"""The door: requests in, replies out; operator API and console.

Public names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.app import create_app
    from gateway.checks import check
    from gateway.errors import GatewayError, StartFailed
    from gateway.server import serve

__all__ = ["GatewayError", "StartFailed", "check", "create_app", "serve"]

_HOMES = {
    "create_app": "gateway.app",
    "check": "gateway.checks",
    "GatewayError": "gateway.errors",
    "StartFailed": "gateway.errors",
    "serve": "gateway.server",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gateway' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
