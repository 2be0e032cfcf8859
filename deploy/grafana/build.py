"""Write the Grafana dashboards as JSON, from one table of panels each: `python deploy/grafana/build.py`.

A panel is (title, kind, unit, width, queries); a query is (PromQL, legend). The JSON under `dashboards/` is what
Grafana provisions and what is committed; a test rebuilds it and compares, and another runs each query against a real
Prometheus.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
SOURCE = {"type": "prometheus", "uid": "${source}"}
HEIGHT = 8


class Query(NamedTuple):
    """One PromQL expression and the legend of its series."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel: ``width`` of Grafana's 24 columns."""

    title: str
    kind: str
    unit: str
    width: int
    queries: tuple[Query, ...]


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Per-second rate of a counter, summed ``by`` labels."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{where}[$__rate_interval]))"


def quantile(q: float, metric: str, by: str = "") -> str:
    """A quantile of a histogram over the last interval."""
    labels = "le" + (f", {by}" if by else "")
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket[$__rate_interval])))"


D = '{domain=~"$domain"}'
SERVER_ERROR = '{status=~"5.."}'
SHED = '{status=~"429|503"}'

GATEWAY = (
    Panel(
        "Requests by status",
        "timeseries",
        "reqps",
        12,
        (Query(rate("metaspo_requests_total", "status"), "{{status}}"),),
    ),
    Panel(
        "Requests by domain and arm",
        "timeseries",
        "reqps",
        12,
        (Query(rate("metaspo_requests_total", "domain, arm", D), "{{domain}} {{arm}}"),),
    ),
    Panel(
        "Added by the gateway",
        "timeseries",
        "s",
        8,
        (
            Query(quantile(0.5, "metaspo_overhead_seconds"), "median"),
            Query(quantile(0.99, "metaspo_overhead_seconds"), "99 %"),
        ),
    ),
    Panel(
        "Whole request",
        "timeseries",
        "s",
        8,
        (
            Query(quantile(0.5, "gen_ai_server_request_duration_seconds"), "median"),
            Query(quantile(0.99, "gen_ai_server_request_duration_seconds"), "99 %"),
        ),
    ),
    Panel(
        "First token",
        "timeseries",
        "s",
        8,
        (
            Query(quantile(0.5, "gen_ai_server_time_to_first_token_seconds"), "median"),
            Query(quantile(0.99, "gen_ai_server_time_to_first_token_seconds"), "99 %"),
        ),
    ),
    Panel(
        "Errors",
        "timeseries",
        "percentunit",
        8,
        (
            Query(
                f"({rate('metaspo_requests_total', '', SERVER_ERROR)} or vector(0)) / {rate('metaspo_requests_total')}",
                "share of 5xx",
            ),
        ),
    ),
    Panel(
        "Shed",
        "timeseries",
        "reqps",
        8,
        (Query(f"{rate('metaspo_requests_total', 'status', SHED)} or vector(0)", "{{status}}"),),
    ),
    Panel("In flight", "timeseries", "short", 8, (Query("sum(metaspo_in_flight)", "requests"),)),
    Panel(
        "Upstream health",
        "timeseries",
        "short",
        12,
        (Query("min by (upstream) (metaspo_upstream_up)", "{{upstream}}"),),
    ),
    Panel(
        "Tokens",
        "timeseries",
        "short",
        12,
        (Query(rate("gen_ai_client_token_usage_sum", "gen_ai_token_type"), "{{gen_ai_token_type}}"),),
    ),
    Panel("Registry reachable", "stat", "bool", 12, (Query("min(metaspo_registry_up)", "registry"),)),
    Panel("Age of the snapshot", "timeseries", "s", 12, (Query("max(metaspo_snapshot_age_seconds)", "oldest worker"),)),
)

QUALITY = (
    Panel(
        "Score with 95 % interval",
        "timeseries",
        "percentunit",
        24,
        (
            Query(f"max by (domain, arm) (metaspo_score_mean{D})", "{{domain}} {{arm}} mean"),
            Query(f"max by (domain, arm) (metaspo_score_low{D})", "{{domain}} {{arm}} low"),
            Query(f"max by (domain, arm) (metaspo_score_high{D})", "{{domain}} {{arm}} high"),
        ),
    ),
    Panel(
        "Judge score by version",
        "timeseries",
        "percentunit",
        12,
        (
            Query(
                f"{rate('metaspo_judge_score_sum', 'domain, version', D)}"
                " / "
                f"{rate('metaspo_judge_score_count', 'domain, version', D)}",
                "{{domain}} v{{version}}",
            ),
        ),
    ),
    Panel(
        "Version served",
        "timeseries",
        "short",
        12,
        (Query(f"max by (domain, arm) (metaspo_prompt_version{D})", "{{domain}} {{arm}}"),),
    ),
    Panel(
        "Canary share",
        "timeseries",
        "percentunit",
        8,
        (Query(f"max by (domain) (metaspo_canary_share{D})", "{{domain}}"),),
    ),
    Panel(
        "Promotions",
        "timeseries",
        "short",
        8,
        (Query(f"sum by (domain, kind) (metaspo_promotions_total{D})", "{{domain}} {{kind}}"),),
    ),
    Panel(
        "Rollbacks",
        "timeseries",
        "short",
        8,
        (Query(f"sum by (domain, cause) (metaspo_rollbacks_total{D}) or vector(0)", "{{domain}} {{cause}}"),),
    ),
    Panel(
        "Feedback",
        "timeseries",
        "short",
        8,
        (Query(f"{rate('metaspo_feedback_total', 'domain, kind', D)} or vector(0)", "{{domain}} {{kind}}"),),
    ),
    Panel(
        "Unscored, by reason",
        "timeseries",
        "short",
        8,
        (Query(f"sum by (domain, reason) (metaspo_unscored_total{D}) or vector(0)", "{{domain}} {{reason}}"),),
    ),
    Panel(
        "Samples kept and passed over",
        "timeseries",
        "short",
        8,
        (Query(rate("metaspo_samples_total", "domain, kept", D), "{{domain}} {{kept}}"),),
    ),
)

OPTIMIZATION = (
    Panel(
        "Calls of the search, by role",
        "timeseries",
        "short",
        12,
        (Query(f"sum by (domain, role) (metaspo_run_calls_total{D})", "{{domain}} {{role}}"),),
    ),
    Panel(
        "Spend, by role",
        "timeseries",
        "currencyUSD",
        12,
        (Query(f"sum by (domain, role) (metaspo_run_cost_usd_total{D})", "{{domain}} {{role}}"),),
    ),
    Panel(
        "Runs by outcome",
        "timeseries",
        "short",
        12,
        (Query("sum by (job, outcome) (metaspo_job_duration_seconds_count)", "{{job}} {{outcome}}"),),
    ),
    Panel(
        "Duration of jobs",
        "timeseries",
        "s",
        12,
        (
            Query(
                "sum by (job) (metaspo_job_duration_seconds_sum) / sum by (job) (metaspo_job_duration_seconds_count)",
                "{{job}} mean",
            ),
        ),
    ),
    Panel(
        "Time since the last success",
        "timeseries",
        "s",
        12,
        (Query("time() - max by (job) (metaspo_job_last_success_timestamp_seconds)", "{{job}}"),),
    ),
    Panel("Waiting jobs", "timeseries", "short", 6, (Query("max(metaspo_queue_depth)", "queue"),)),
    Panel(
        "Budget spent today",
        "timeseries",
        "percentunit",
        6,
        (Query("max by (budget) (metaspo_budget_spent_ratio)", "{{budget}}"),),
    ),
)

DASHBOARDS = {
    "gateway": ("Metaspo gateway", GATEWAY),
    "quality": ("Metaspo prompt quality", QUALITY),
    "optimization": ("Metaspo optimization", OPTIMIZATION),
}


def grown(metric: str, window: str) -> str:
    """Where a counter grew within the window; a new series counts from zero, which ``increase`` does not see."""
    now, before = f"sum by (domain) ({metric})", f"sum by (domain) ({metric} offset {window})"
    return f"{now} - ({before} or {now} * 0) > 0"


def annotation(name: str, metric: str, colour: str, text: str) -> dict[str, Any]:
    """Mark the moments at which a counter grew."""
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "iconColor": colour,
        "expr": grown(metric, "1m"),
        "titleFormat": name,
        "textFormat": text,
        "step": "60s",
    }


def place(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    """Panels in reading order on Grafana's 24-column grid."""
    placed: list[dict[str, Any]] = []
    x = y = 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > 24:
            x, y = 0, y + HEIGHT
        placed.append(
            {
                "id": number,
                "title": panel.title,
                "type": panel.kind,
                "datasource": SOURCE,
                "gridPos": {"h": HEIGHT, "w": panel.width, "x": x, "y": y},
                "fieldConfig": {
                    "defaults": {"unit": panel.unit, "custom": {"fillOpacity": 8, "showPoints": "never"}},
                    "overrides": [],
                },
                "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
                "targets": [
                    {"refId": chr(65 + i), "datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend}
                    for i, query in enumerate(panel.queries)
                ],
            }
        )
        x += panel.width
    return placed


def dashboard(uid: str, title: str, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """One dashboard in Grafana's JSON model."""
    return {
        "uid": f"metaspo-{uid}",
        "title": title,
        "tags": ["metaspo"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "annotations": {
            "list": [
                annotation("Promotion", "metaspo_promotions_total", "green", "{{domain}} promoted"),
                annotation("Rollback", "metaspo_rollbacks_total", "red", "{{domain}} rolled back"),
            ]
        },
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"},
                {
                    "name": "domain",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": "label_values(metaspo_requests_total, domain)",
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                    "refresh": 2,
                    "label": "Domain",
                },
            ]
        },
        "panels": place(panels),
    }


def build() -> dict[str, str]:
    """File name to JSON text of every dashboard."""
    return {
        f"{uid}.json": json.dumps(dashboard(uid, title, panels), indent=1) + "\n"
        for uid, (title, panels) in DASHBOARDS.items()
    }


if __name__ == "__main__":
    for name, text in build().items():
        (HERE / "dashboards" / name).write_text(text, encoding="utf-8")
