"""docs/api.md and the code say the same."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from gateway.api import Control, create_api
from gateway.api.openapi import describe
from gateway.metric_names import FAMILIES
from gateway.scrub import Scrubber
from registry import GatewaySettings

PROMISED = """
GET /api/domains
GET /api/domains/{d}
PUT /api/domains/{d}
GET /api/domains/{d}/versions
POST /api/domains/{d}/versions
GET /api/domains/{d}/versions/{n}
GET /api/domains/{d}/deployment
POST /api/domains/{d}/promote
POST /api/domains/{d}/canary
POST /api/domains/{d}/rollback
POST /api/domains/{d}/abort
POST /api/domains/{d}/optimize
GET /api/runs
GET /api/runs/{id}
GET /api/runs/{id}/events
GET /api/domains/{d}/samples
GET /api/domains/{d}/scores
GET /api/domains/{d}/audit
GET /api/approvals
POST /api/approvals/{id}
GET /api/jobs
GET /api/keys
POST /api/samples/{id}/label
GET /api/domains/{d}/tasks/{t}/prompt
POST /v1/feedback
POST /v1/chat/completions
POST /v1/responses
POST /v1/messages
POST /v1/embeddings
POST /v1/completions
GET /v1/models
GET /v1/models/{id}
GET /healthz
GET /readyz
GET /metrics
"""


def text(repository: Path) -> str:
    return (repository / "docs" / "api.md").read_text(encoding="utf-8")


def test_every_promised_route_is_described() -> None:
    paths = describe(create_api(cast(Control, SimpleNamespace(version="0"))))["paths"]
    described = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    promised = set(PROMISED.split("\n")) - {""}
    assert promised <= described, promised - described


def test_settings_codes_and_metrics_that_the_page_names_exist(repository: Path) -> None:
    page = text(repository)
    for name in re.findall(r"`gateway\.([a-z_]+)`", page):
        assert name in GatewaySettings.model_fields, name
    source = "".join(path.read_text(encoding="utf-8") for path in (repository / "gateway").rglob("*.py"))
    table = page.split("| status | `code` | means |")[1].split("\n\n")[0]
    for code in re.findall(r"`([a-z_]+)`", table):
        assert f'"{code}"' in source or code in {"param"}, code
    known = {family.name for family in FAMILIES}
    for name in re.findall(r"`(metaspo_[a-z_]+)", page):
        assert name in known, name


def test_every_placeholder_on_the_page_is_made(repository: Path) -> None:
    text_with_all = (
        "bob@example.com, +49 30 1234567, 4111111111111111, DE89370400440532013000, 203.0.113.9, 123-45-6789,"
        " eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl, password: hunter2222"
    )
    made = set(re.findall(r"<([A-Z]+)_1>", Scrubber()(text_with_all)))
    named = set(re.findall(r"`<([A-Z]+)_n>`", text(repository)))
    assert named == made
