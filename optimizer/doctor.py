"""What ``metaspo doctor`` asks the optimizer: can a search run on this machine?"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from optimizer.records import Finding
from optimizer.settings import Settings

_LEAST_FREE = 200 * 1024 * 1024
_LIBRARIES = {
    "aiohttp": "calls to OpenAI-compatible endpoints",
    "rensa": "near-duplicate clusters",
    "numpy": "the gate",
    "litellm": "providers with a dialect of their own",
    "sympy": "the maths judge",
}


class Home(Protocol):
    """Any settings that say where things are kept."""

    @property
    def home(self) -> Path:
        """The folder of this package, or of the whole house."""
        ...


async def check(settings: Home | None = None) -> list[Finding]:
    """Findings on the journal folder, the disk under it and the libraries. Calls no model and changes nothing.

    ``settings`` are the optimizer's own, or those of the house: then journals lie in ``search`` under its home.
    """
    told = Settings.from_env(os.environ) if settings is None else settings
    home = told.home if isinstance(told, Settings) else told.home / "search"
    return [_writable(home), _space(home), *(_library(name, use) for name, use in _LIBRARIES.items())]


def _writable(home: Path) -> Finding:
    place = _existing(home)
    ok = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return Finding(
        name="search home",
        ok=ok,
        message=f"{home} can be written." if ok else f"{home} cannot be written, {place} stands in the way.",
        mend="" if ok else "Set METASPO_SEARCH_HOME to a folder you can write to.",
    )


def _space(home: Path) -> Finding:
    free = shutil.disk_usage(_existing(home)).free
    return Finding(
        name="search disk",
        ok=free >= _LEAST_FREE,
        message=f"{free // 1024**2} MiB are free under {home}.",
        mend="" if free >= _LEAST_FREE else "Free at least 200 MiB, or set METASPO_SEARCH_HOME to another disk.",
    )


def _existing(home: Path) -> Path:
    """``home`` or the nearest folder above it that is there."""
    return next((folder for folder in (home, *home.absolute().parents) if folder.exists()), Path("/"))


def _library(name: str, use: str) -> Finding:
    found = find_spec(name) is not None
    return Finding(
        name=f"library {name}",
        ok=found,
        message=f"{name} ({use}) is {'installed' if found else 'missing'}.",
        mend="" if found else "Install the locked requirements: make test, or pip install -r requirements/base.txt.",
    )
