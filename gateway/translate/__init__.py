"""The translate lane: requests to upstreams that speak another dialect, through the LiteLLM SDK.

    lane.py       `LiteLLMLane`: the call, its time limits, its end
    sdk.py        the SDK: loaded late, tamed
    requests.py   a caller's body as the SDK's arguments
    replies.py    the SDK's replies in the caller's dialect
    failures.py   what the upstream really said when it failed

LiteLLM is imported with the first request that needs it (or by `LiteLLMLane.warm`), never at start.
"""

from __future__ import annotations

from gateway.translate.lane import LiteLLMLane

__all__ = ["LiteLLMLane"]
