"""What callers speak, one file per dialect. Each reads the few fields that the gateway needs and knows where the system
prompt stands; everything else is bytes."""

from __future__ import annotations

from gateway.dialects.base import Plain, Speech
from gateway.dialects.chat import Chat
from gateway.dialects.messages import CountTokens, Messages
from gateway.dialects.responses import Responses

__all__ = ["BY_PATH", "Speech", "speech_at"]

_CHAT, _RESPONSES, _MESSAGES, _COUNT = Chat(), Responses(), Messages(), CountTokens()
_COMPLETIONS = Plain("completions", "/completions")
_EMBEDDINGS = Plain("embeddings", "/embeddings")

BY_PATH: dict[str, Speech] = {
    prefix + speech.path: speech
    for prefix in ("/v1", "")
    for speech in (_CHAT, _RESPONSES, _COMPLETIONS, _EMBEDDINGS, _MESSAGES, _COUNT)
}
"""Every path that is carried, with and without ``/v1``."""


def speech_at(path: str) -> Speech | None:
    """The dialect spoken at this path (a trailing slash is tolerated), or None."""
    return BY_PATH.get(path) or BY_PATH.get(path.rstrip("/"))
