"""Every number the clock shows, in one place. Labels are bounded: job names, domains, arms, versions that are pointed
at, roles and short fixed reasons; never a model's raw name, a key, a user or a path.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from jobs.errors import JobsError

_SECONDS = (0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600)
_SCORES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """The meters of one worker or scheduler process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.job_duration = Histogram(
            "metaspo_job_duration_seconds", "Time a job took.", ["job", "outcome"], buckets=_SECONDS, registry=r
        )
        self.job_last_success = Gauge(
            "metaspo_job_last_success_timestamp_seconds", "When a job last ended well.", ["job"], registry=r
        )
        self.queue_depth = Gauge("metaspo_queue_depth", "Triggers that wait for a worker.", registry=r)
        self.scheduler_elected = Gauge(
            "metaspo_scheduler_elected", "1 in the scheduler that holds the lease.", registry=r
        )
        self.firings = Counter("metaspo_firings_total", "Firings written by this scheduler.", ["job"], registry=r)
        self.refused = Counter(
            "metaspo_run_refused_total", "Runs that ended before a search, by cause.", ["domain", "cause"], registry=r
        )
        self.runs = Counter("metaspo_runs_total", "Searches by what the gate said.", ["domain", "outcome"], registry=r)
        self.run_calls = Counter("metaspo_run_calls_total", "Model calls of searches.", ["domain", "role"], registry=r)
        self.run_cost = Counter("metaspo_run_cost_usd_total", "USD spent by searches.", ["domain", "role"], registry=r)
        self.left_out = Counter(
            "metaspo_samples_left_out_total",
            "Samples that became no example, by reason.",
            ["domain", "reason"],
            registry=r,
        )
        self.judge_score = Histogram(
            "metaspo_judge_score", "Scores of live samples.", ["domain", "version"], buckets=_SCORES, registry=r
        )
        self.score_mean = Gauge("metaspo_score_mean", "Mean score of live traffic.", ["domain", "arm"], registry=r)
        self.score_low = Gauge("metaspo_score_low", "Lower end of its 95% interval.", ["domain", "arm"], registry=r)
        self.score_high = Gauge("metaspo_score_high", "Upper end of its 95% interval.", ["domain", "arm"], registry=r)
        self.scores = (self.score_mean, self.score_low, self.score_high)
        self.scores_shown: set[tuple[str, str]] = set()
        """(domain, arm) of what the three show now."""
        self.unscored = Counter(
            "metaspo_unscored_total", "Samples without a verdict.", ["domain", "reason"], registry=r
        )
        self.judge_flips = Gauge(
            "metaspo_judge_flip_rate", "Share of verdicts that change when judged again.", ["domain"],
            registry=r,
        )  # fmt: skip
        self.judge_kappa = Gauge("metaspo_judge_kappa", "Agreement of judge and people.", ["domain"], registry=r)
        self.judge_calls = Counter(
            "metaspo_judge_calls_total", "Calls made to judge live samples.", ["domain"], registry=r
        )
        self.budget_spent = Gauge(
            "metaspo_budget_spent_ratio", "Share of a daily budget spent, when last looked at.", ["budget"], registry=r
        )
        self.promotions = Counter(
            "metaspo_promotions_total", "Moves to stable or canary.", ["domain", "kind"], registry=r
        )
        self.rollbacks = Counter("metaspo_rollbacks_total", "Moves back.", ["domain", "cause"], registry=r)
        self.lost_leases = Counter(
            "metaspo_lost_leases_total", "Jobs stopped because their lease was lost.", registry=r
        )

    def spent(self, budget: str, *parts: tuple[float, float | None]) -> None:
        """Show how far a daily budget is spent: the largest share of its parts, each (spent, limit). A limit of 0 is
        spent from the start; None is no limit."""
        shares = [spent / limit if limit else 1.0 for spent, limit in parts if limit is not None]
        self.budget_spent.labels(budget).set(max(shares, default=0.0))


def start_server(metrics: Metrics, address: str) -> Callable[[], None]:
    """Serve ``/metrics`` at ``HOST:PORT`` in a thread; returns what stops it. Raises JobsError when the port is
    taken.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise JobsError(f"--metrics {address!r} is not HOST:PORT; write for example 127.0.0.1:9100.")
    try:
        server, thread = start_http_server(int(port), addr=host, registry=metrics.registry)
    except OSError as error:
        raise JobsError(
            f"Cannot serve metrics at {address}: {error.strerror or error}; choose another port."
        ) from error
    return lambda: _stop(server, thread)


def _stop(server: WSGIServer, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)
