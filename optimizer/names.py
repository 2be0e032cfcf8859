"""Names that somebody mistyped, answered with those that look like them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MOST_SHOWN = 20


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean ...?`` with up to three names that look like ``name``, else those that are known."""
    names = list(dict.fromkeys(known))
    folded = {each.casefold(): each for each in reversed(names)}
    close = [folded[each] for each in get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
    if close:
        return f" Did you mean {' or '.join(map(repr, close))}?"
    more = ", ..." if len(names) > _MOST_SHOWN else ""
    return f" Known are: {', '.join(names[:_MOST_SHOWN])}{more}."
