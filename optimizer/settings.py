"""What the environment sets for the optimizer. The search file goes before it, the command line before both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from optimizer.errors import SearchFileError


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults of every search.

    ``home`` (METASPO_SEARCH_HOME, else ``search`` under METASPO_HOME) holds journals; ``concurrency``
    (METASPO_SEARCH_CONCURRENCY) is how many requests one model gets at once; ``timeout`` (METASPO_SEARCH_TIMEOUT,
    seconds) and ``retries`` (METASPO_SEARCH_RETRIES) hold for one call.
    """

    home: Path = Path(".metaspo/search")
    concurrency: int = 16
    timeout: float = 120.0
    retries: int = 6

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """The settings of this environment. Raises ``SearchFileError`` for a value of the wrong type."""
        home = env.get("METASPO_SEARCH_HOME") or (
            str(Path(env["METASPO_HOME"]) / "search") if env.get("METASPO_HOME") else None
        )
        default = cls()
        return cls(
            home=Path(home) if home else default.home,
            concurrency=int(_positive(env, "METASPO_SEARCH_CONCURRENCY", default.concurrency, whole=True)),
            timeout=_positive(env, "METASPO_SEARCH_TIMEOUT", default.timeout),
            retries=int(_positive(env, "METASPO_SEARCH_RETRIES", default.retries, whole=True)),
        )


def _positive(env: Mapping[str, str], name: str, default: float, *, whole: bool = False) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value <= 0 or (whole and value != int(value)):
        raise SearchFileError(f"{name}={text!r} must be a positive {'whole number' if whole else 'number'}.")
    return value
