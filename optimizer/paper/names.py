"""Nearest names, where the paper's commands look for them."""

from __future__ import annotations

from optimizer.names import nearest

__all__ = ["nearest"]
