"""The control plane: what an operator may see and move. Routes by noun, one file each; `create_api` puts them together.

control.py   what the routes stand on, and who may use them        openapi.py   one description of both planes
answers.py   the shapes that go out     asks.py   the shapes that come in     failures.py   errors, in OpenAI's shape
domains.py   domains, tasks     versions.py   versions     moves.py   the pointers     runs.py   searches
kept.py      samples, scores, audit     people.py   approvals, keys, jobs     plane.py   feedback, health, metrics
"""

from __future__ import annotations

from gateway.api.assembly import create_api
from gateway.api.control import Control

__all__ = ["Control", "create_api"]
