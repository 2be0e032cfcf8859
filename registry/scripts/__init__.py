"""The Lua scripts that change several keys at once: each is one atomic step, all its keys lie in one Cluster slot.

``prelude.lua`` (small functions that several scripts share) stands before every one of them.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import resources
from typing import NamedTuple


class Script(NamedTuple):
    """Source text and its SHA-1, under which the server remembers it."""

    text: str
    sha: str


@functools.cache
def script(name: str) -> Script:
    """The script ``<name>.lua`` of this folder."""
    folder = resources.files(__package__ or "registry.scripts")
    text = (folder / "prelude.lua").read_text() + (folder / f"{name}.lua").read_text()
    return Script(text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 (it is the server's own name for it)
