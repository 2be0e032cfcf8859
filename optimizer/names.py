"""Names that somebody mistyped, answered with those that look like them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MOST_SHOWN = 20


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """`` Did you mean ...?`` with up to three names that look like ``name``, else those that are known.

    ``cutoff``: how much two names must share, 0..1.
    """
    names = list(dict.fromkeys(known))
    folded = {each.casefold(): each for each in reversed(names)}
    close = [folded[each] for each in get_close_matches(name.casefold(), folded, n=3, cutoff=cutoff)]
    if close:
        return f" Did you mean {' or '.join(map(repr, close))}?"
    more = ", ..." if len(names) > _MOST_SHOWN else ""
    return f" Known are: {', '.join(names[:_MOST_SHOWN])}{more}."
