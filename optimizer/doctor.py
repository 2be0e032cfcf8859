"""What ``metaspo doctor`` asks the optimizer: can a search run on this machine?"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

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


async def check(settings: Settings | None = None) -> list[Finding]:
    """Findings on the journal folder, the disk under it and the libraries. Calls no model."""
    home = (settings or Settings.from_env(os.environ)).home
    return [_writable(home), _space(home), *(_library(name, use) for name, use in _LIBRARIES.items())]


def _writable(home: Path) -> Finding:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        return Finding(
            name="search home",
            ok=False,
            message=f"{home} cannot be written ({error.strerror or error}).",
            mend="Set METASPO_SEARCH_HOME to a folder you can write to.",
        )
    return Finding(name="search home", ok=True, message=f"{home} can be written.")


def _space(home: Path) -> Finding:
    place = next((folder for folder in (home, *home.absolute().parents) if folder.exists()), Path("/"))
    free = shutil.disk_usage(place).free
    return Finding(
        name="search disk",
        ok=free >= _LEAST_FREE,
        message=f"{free // 1024**2} MiB are free under {home}.",
        mend="" if free >= _LEAST_FREE else "Free at least 200 MiB, or set METASPO_SEARCH_HOME to another disk.",
    )


def _library(name: str, use: str) -> Finding:
    found = find_spec(name) is not None
    return Finding(
        name=f"library {name}",
        ok=found,
        message=f"{name} ({use}) is {'installed' if found else 'missing'}.",
        mend="" if found else "Install the locked requirements: make test, or pip install -r requirements/base.txt.",
    )
