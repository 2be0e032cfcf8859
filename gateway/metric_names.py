"""Every metric of the gateway: its name, what it says, its labels. The names are promises to dashboards."""

from __future__ import annotations

from typing import Literal, NamedTuple

_DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68)
_FIRST_TOKEN = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)
_TOKENS = tuple(float(4**power) for power in range(12))
_OVERHEAD = (0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_ABOUT = ("gen_ai_operation_name", "gen_ai_request_model", "gen_ai_provider_name")


class Family(NamedTuple):
    """One metric with all its series."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


FAMILIES: tuple[Family, ...] = (
    Family("metaspo_requests_total", "counter", "Finished requests.", ("dialect", "domain", "arm", "status")),
    Family(
        "metaspo_overhead_seconds",
        "histogram",
        "Time this gateway spent on a request before it asked the upstream.",
        ("dialect",),
        _OVERHEAD,
    ),
    Family(
        "gen_ai_server_request_duration_seconds",
        "histogram",
        "From a request's arrival to the end of its reply.",
        _ABOUT,
        _DURATIONS,
    ),
    Family(
        "gen_ai_server_time_to_first_token_seconds",
        "histogram",
        "From a streamed request's arrival to the first byte from the upstream.",
        _ABOUT,
        _FIRST_TOKEN,
    ),
    Family(
        "gen_ai_client_token_usage",
        "histogram",
        "Tokens of a request, as the provider counted them.",
        (*_ABOUT, "gen_ai_token_type"),
        _TOKENS,
    ),
    Family(
        "metaspo_unpriced_total",
        "counter",
        "Answered exchanges whose cost no budget could count: the provider told no tokens (tokens), or neither the"
        " config nor the price table knows the model (price).",
        ("gen_ai_request_model", "reason"),
    ),
    Family("metaspo_prompt_version", "gauge", "Version a pointer names.", ("domain", "arm")),
    Family("metaspo_canary_share", "gauge", "Share of units on the canary, 0 when none runs.", ("domain",)),
    Family("metaspo_in_flight", "gauge", "Requests that are being answered now."),
    Family("metaspo_upstream_up", "gauge", "0 while an upstream is ejected after failures, else 1.", ("upstream",)),
    Family("metaspo_feedback_total", "counter", "Feedback taken, by what it said.", ("domain", "kind")),
    Family("metaspo_samples_total", "counter", "Exchanges drawn for learning, by whether kept.", ("domain", "kept")),
    Family(
        "metaspo_samples_dropped_total",
        "counter",
        "Exchanges that could not be kept: queue_full, queue_bytes, too_long, unreadable, outcome_rate, refused, fault"
        " or shutdown.",
        ("reason",),
    ),
    Family("metaspo_snapshot_age_seconds", "gauge", "Age of the oldest worker's view of what is live."),
    Family("metaspo_registry_up", "gauge", "1 when every worker reaches the registry."),
    Family("metaspo_snapshot_refused_total", "counter", "Stored values that failed verification and were not served."),
    Family("metaspo_promotions_total", "counter", "Pointer moves through this gateway's API.", ("domain", "kind")),
    Family("metaspo_rollbacks_total", "counter", "Rollbacks through this gateway's API.", ("domain", "cause")),
)
