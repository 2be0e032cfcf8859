"""Fixtures of the gateway's tests. The control plane's house stands in a file of its own."""

from __future__ import annotations

from control_house import clock, embedded, house, registry

__all__ = ["clock", "embedded", "house", "registry"]
