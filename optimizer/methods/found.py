"""What every search method hands back before the holdout is touched."""

from __future__ import annotations

from typing import Literal

from optimizer.records import Generation, Record


class Found(Record, frozen=True, kw_only=True):
    """The prompt to confirm (the incumbent itself when nothing better was found), how it came about, and why it
    ended."""

    winner: str
    reason: str
    user_prompts: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 -- msgspec copies it
    proposer: Literal["rewrite", "components", "none"] = "none"
    generations: tuple[Generation, ...] = ()
    notes: tuple[str, ...] = ()
    idle: bool = False
    """Nothing is to be gained here, and the optimizer was asked for nothing: nor is it for the report's sake."""
    adapted: bool = False
    """True when the user prompts are what was found: then the holdout compares them, at one system prompt."""
