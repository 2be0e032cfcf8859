"""Write the reference pages from the code: ``python docs/build_reference.py``. A test fails when one is out of date.

Each page is a function that returns Markdown: settings, commands, routes, metrics, jobs, errors, Redis keys.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
NOTE = "*Made from the code by `python docs/build_reference.py`; do not edit.*\n"


def cell(text: object) -> str:
    """Text for a table cell."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def settings() -> str:
    """Every setting of metaspo.yaml."""
    from registry import settings_reference

    rows = [(f"`{r.path}`", f"`{r.env}`", r.type, f"`{r.default}`", r.meaning) for r in settings_reference()]
    return (
        f"# Settings\n\n{NOTE}\nWhat may stand in `metaspo.yaml`. The environment wins over `.env` beside the file, "
        "that over the file, that over the default. A secret is `env:NAME`, `os.environ/NAME` or the text itself. An "
        "unknown key is an error that names the nearest known one.\n\n"
        + table(("setting", "environment", "type", "default", "meaning"), rows)
    )


def commands() -> str:
    """Every command with its options."""
    from metaspo import cli

    parts = [f"# Commands\n\n{NOTE}"]

    def visit(command: click.Command, path: str) -> None:
        context = click.Context(command, info_name=path)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                if child is not None and not child.hidden:
                    visit(child, f"{path} {name}")
            return
        usage = command.get_usage(context).removeprefix("Usage: ")
        parts.append(f"\n## `{path}`\n\n{inspect.cleandoc(command.help or '')}\n\n    {' '.join(usage.split())}\n")
        options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        if options:
            rows = [(", ".join(f"`{o}`" for o in p.opts), p.help or "") for p in options]
            parts.append("\n" + table(("option", "meaning"), rows))

    visit(cli, "metaspo")
    return "".join(parts)


def routes() -> str:
    """Every route of both planes."""
    from gateway.api.openapi import describe
    from gateway.control_plane import control_plane
    from gateway.worker import Worker
    from registry import Settings

    outer: Any = control_plane(Worker(Settings()))
    app = outer.app  # inside what reads the proxy's header fields
    document: dict[str, Any] = describe(app)
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = ", ".join(sorted(map(str, operation.get("responses", {}))))
            about = operation.get("description") or operation.get("summary") or ""
            rows.append((", ".join(operation.get("tags", [])), f"`{method.upper()} {path}`", about, answers))
    return (
        f"# Routes\n\n{NOTE}\nThe same, with every field, is served as `/openapi.json` and as a page at `/docs`. "
        "Callers' keys open the data plane, operators' the control plane; viewers' keys only read.\n\n"
        + table(("plane", "route", "what it does", "answers"), sorted(rows, key=lambda row: (row[0], row[1])))
    )


def metrics() -> str:
    """Every metric of the gateway and of the jobs."""
    from gateway.metric_names import FAMILIES
    from jobs.metrics import Metrics

    gateway = [(f"`{f.name}`", f.kind, ", ".join(f"`{x}`" for x in f.labels), f.help) for f in FAMILIES]
    jobs = []
    for collector in dict.fromkeys(Metrics().registry._names_to_collectors.values()):
        name = collector._name + ("_total" if collector._type == "counter" else "")  # type: ignore[attr-defined]
        labels = ", ".join(f"`{x}`" for x in collector._labelnames)  # type: ignore[attr-defined]
        jobs.append((f"`{name}`", collector._type, labels, collector._documentation))  # type: ignore[attr-defined]
    head = ("metric", "kind", "labels", "meaning")
    return (
        f"# Metrics\n\n{NOTE}\nLabels are bounded: a raw model name, key, user or path from a client never becomes "
        "one.\n\n"
        f"## Gateway (`GET /metrics`, over all workers)\n\n{table(head, gateway)}\n"
        f"## Worker and scheduler (`--metrics HOST:PORT`)\n\n{table(head, sorted(jobs))}"
    )


def jobs() -> str:
    """Every job, and when it runs."""
    from jobs.schedule import JOBS
    from registry import Settings

    rows = [(f"`{j.name}`", j.when(Settings()), j.scope, j.about) for j in JOBS]
    return f"# Jobs\n\n{NOTE}\n" + table(("job", "when (default settings)", "scope", "what it does"), rows)


def errors() -> str:
    """The error trees."""
    parts = [f"# Errors\n\n{NOTE}\nEach package has one tree. Every message is a sentence that says what to do.\n"]
    for package in ("registry", "optimizer", "gateway", "jobs"):
        text = inspect.getdoc(importlib.import_module(f"{package}.errors")) or ""
        parts.append(f"\n## {package}\n\n```text\n{text}\n```\n")
    return "".join(parts)


def redis_keys() -> str:
    """Every Redis key, from the one file that names them."""
    source = ast.parse((HERE.parent / "registry" / "redis_keys.py").read_text(encoding="utf-8"))
    keys = next(n for n in source.body if isinstance(n, ast.ClassDef) and n.name == "Keys")
    rows: list[tuple[str, str]] = []
    for node in keys.body:
        if not isinstance(node, ast.FunctionDef) or (node.name.startswith("_") and node.name != "__init__"):
            continue
        if node.name == "__init__":
            for statement, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(statement, ast.Assign) and isinstance(after, ast.Expr):
                    target, said = statement.targets[0], after.value
                    if isinstance(target, ast.Attribute) and isinstance(said, ast.Constant):
                        rows.append((f"`{target.attr}`", str(said.value)))
        else:
            rows.append((f"`{node.name}`", ast.get_docstring(node) or ""))
    about = inspect.getdoc(importlib.import_module("registry.redis_keys")) or ""
    return f"# Redis keys\n\n{NOTE}\n{textwrap.dedent(about)}\n\n" + table(("name in the code", "what is kept"), rows)


PAGES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "commands": commands,
    "routes": routes,
    "metrics": metrics,
    "jobs": jobs,
    "errors": errors,
    "redis-keys": redis_keys,
}


def build() -> dict[str, str]:
    """Page name to Markdown."""
    return {name: page() for name, page in PAGES.items()}


if __name__ == "__main__":
    for name, text in build().items():
        (HERE / "reference" / f"{name}.md").write_text(text, encoding="utf-8")
