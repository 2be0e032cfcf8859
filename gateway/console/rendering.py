"""Turns a page's context into HTML: Jinja with everything escaped, strict security headers, readable times."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import Response

from gateway.console.contexts import Chart, Page
from gateway.console.session import Visitor

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}
NAVIGATION = (
    ("", "Overview"),
    ("/approvals", "Approvals"),
    ("/jobs", "Jobs"),
    ("/audit", "Audit"),
    ("/keys", "Keys"),
    ("/health", "Health"),
)
TEMPLATES = {
    "Overview": "overview.html",
    "DomainPage": "domain.html",
    "VersionPage": "version.html",
    "RunPage": "run.html",
    "SamplesPage": "samples.html",
    "JobsPage": "jobs.html",
    "HealthPage": "health.html",
    "ConfirmPage": "confirm.html",
    "OptimizePage": "optimize.html",
    "ApprovalsPage": "approvals.html",
    "KeysPage": "keys.html",
    "AuditPage": "audit.html",
    "ReportPage": "report.html",
}


class Renderer:
    """Renders contexts. ``root`` is the console's path."""

    def __init__(self, root: str) -> None:
        self._root = root

    @cached_property
    def _environment(self) -> Environment:
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["moment"] = moment
        environment.filters["iso"] = iso
        environment.filters["chart"] = chart_json
        environment.globals.update(root=self._root, navigation=NAVIGATION)
        return environment

    def page(self, context: Page, visitor: Visitor) -> Response:
        """The page of this context, for this visitor."""
        return self._html(
            TEMPLATES[type(context).__name__], 200, page=context, visitor=visitor, csrf_token=visitor.csrf
        )

    def problem(self, status: int, title: str, text: str, visitor: Visitor | None) -> Response:
        """A page that says what happened."""
        token = visitor.csrf if visitor else ""
        return self._html("problem.html", status, page=Page(title=title), text=text, visitor=visitor, csrf_token=token)

    def sign_in(self, next: str, said: str, status: int) -> Response:
        """The sign-in form."""
        return self._html(
            "sign_in.html", status, page=Page(title="Sign in"), next=next, problem=said, visitor=None, csrf_token=""
        )

    def _html(self, template: str, status: int, **values: Any) -> Response:
        html = self._environment.get_template(template).render(once=secrets.token_urlsafe(9), **values)
        return Response(html, status, media_type="text/html", headers=SECURITY_HEADERS)


def iso(t: float) -> str:
    """Seconds since the epoch as ISO 8601."""
    return datetime.fromtimestamp(t, UTC).isoformat(timespec="seconds")


def moment(t: float) -> str:
    """Seconds since the epoch for a person, in UTC."""
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S")


def chart_json(chart: Chart) -> Markup:
    """A chart's data for a script element of type application/json: no character in it can end the element."""
    text = json.dumps(msgspec.to_builtins(chart), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704 - just escaped
