"""Which samples stay when there is room for k: exponentially decayed bottom-k sampling, with inclusion probabilities.

Each sample draws E ~ Exp(1) (from a hash of its id, so a retry draws the same) and gets weight w = 2**(t / half-life).
The k smallest ranks E / w stay. Given the smallest rank T ever turned away, a sample was kept with probability ``1 -
exp(-w T)``, independent of the others: dividing by it makes sums over the kept ones unbiased for all traffic.

Sources: G. Cormode, V. Shkapenyuk, D. Srivastava, B. Xu, "Forward Decay", ICDE 2009; E. Cohen, H. Kaplan, "Summarizing
Data using Bottom-k Sketches", PODC 2007. Ranks are kept as logarithms, since weights grow without bound.
"""

from __future__ import annotations

import math

import xxhash

from registry.store import DAY


def priority(sample_id: str, at: float, half_life_days: float) -> float:
    """Logarithm of the sample's rank; smaller stays longer."""
    uniform = (xxhash.xxh3_64_intdigest(sample_id.encode()) + 0.5) / 2.0**64
    return math.log(-math.log(uniform)) - _log_weight(at, half_life_days)


def inclusion(at: float, threshold: float | None, half_life_days: float) -> float:
    """Probability in 0..1 that a sample of time ``at`` is kept, given the smallest logarithm turned away."""
    if threshold is None:
        return 1.0
    return -math.expm1(-math.exp(min(threshold + _log_weight(at, half_life_days), 50.0)))


def _log_weight(at: float, half_life_days: float) -> float:
    return math.log(2) * at / (half_life_days * DAY)
