"""The rows of the paper's tables and what each of them is here."""

from __future__ import annotations

from typing import Any, get_args

from msgspec.structs import replace

from optimizer.errors import SearchFileError
from optimizer.methods.baselines import NAMES, PROMPTS
from optimizer.names import nearest
from optimizer.records import Method, SearchSpec

FAITHFUL = "metaspo-faithful"
FIXED = (*PROMPTS, "one_shot", "constant")
"""Rows that search nothing: the fixed prompts, one rewrite, the most frequent answer."""
PUBLISHED_LOOPS = (FAITHFUL, "outer_loop", "metaspo_ape", "metaspo_evo")
SYSTEM_METHODS = (*FIXED, "sprig", "gepa", *PUBLISHED_LOOPS, "metaspo")
"""Methods that end with a system prompt: the rows of every table. ``protegi`` and ``ape`` write user prompts;
adaptation uses the first."""
DEFAULT_METHODS = ("default", "cot", "service", "empty", "constant", "one_shot", "metaspo", "sprig", "gepa", FAITHFUL)
ABLATIONS = ("outer_loop", "metaspo_ape", "metaspo_evo")
TITLES = {
    "default": "Default",
    "cot": "CoT",
    "service": "Service",
    "empty": "No system prompt",
    "constant": "Constant answer",
    "one_shot": "One-shot rewrite",
    "sprig": "SPRIG",
    "gepa": "GEPA",
    "metaspo": "MetaSPO (ours)",
    FAITHFUL: "MetaSPO (faithful)",
    "outer_loop": "outer loop alone",
    "metaspo_ape": "MetaSPO with APE",
    "metaspo_evo": "MetaSPO with EVO",
}


def search_method(name: str) -> tuple[Method, bool]:
    """The search's method and whether it is the loop as published. Raises ``SearchFileError`` for an unknown name."""
    for method in get_args(Method):
        if method == ("metaspo" if name == FAITHFUL else name):
            return method, name == FAITHFUL
    raise SearchFileError(f"The method {name!r} is not known.{nearest(name, SYSTEM_METHODS)}")


def check_method(name: str) -> str:
    """``name`` when it is a row of the paper's tables; raises ``SearchFileError`` with the nearest names otherwise."""
    if name not in SYSTEM_METHODS:
        raise SearchFileError(f"The method {name!r} is no row of the paper's tables.{nearest(name, SYSTEM_METHODS)}")
    return name


def order_of(method: str, scope: str) -> tuple[int, str, str]:
    """Where a method stands in a table; one that is not known comes last."""
    place = SYSTEM_METHODS.index(method) if method in SYSTEM_METHODS else len(SYSTEM_METHODS)
    return place, method, scope


def searches(name: str) -> bool:
    """Whether the method spends calls to find its prompt by trying candidates."""
    return name not in NAMES


def as_method(spec: SearchSpec, name: str) -> SearchSpec:
    """``spec`` under another method, confirmed on the holdout as well where the method tests itself only."""
    method, faithful = search_method(name)
    options: dict[str, Any] = {**spec.options, "confirm": True}
    return replace(spec, method=method, faithful=faithful, options=options)
