"""What the page of one search shows: its story, read from the run's events."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.console.contexts import Chart, GenerationRow, RunPage, Series
from registry import Registry


async def run_page(registry: Registry, id: str) -> RunPage:
    """One search. Raises NotFound."""
    run, stored = await asyncio.gather(registry.get_run(id), registry.run_events(id))
    events = [event for _, event in stored]
    generations = generation_rows(events)
    spent, budget = spending(events)
    return RunPage(
        title=f"Search {id[:20]}",
        section="Jobs",
        run=run,
        events=[line for event in events if (line := event_text(event))][-400:],
        generations=generations,
        chart=Chart(
            [float(row.calls or 0) for row in generations],
            [Series("best score on the select split", [row.score for row in generations])],
        ),
        last_event=stored[-1][0] if stored else "0",
        live=run.state in ("queued", "running"),
        spent=max(spent, sum(run.calls.values())),
        budget=budget,
        failures=failure_counts(events),
    )


def data_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """An event's values."""
    data = event.get("data")
    return data if isinstance(data, Mapping) else {}


def event_text(event: Mapping[str, Any]) -> str:
    """One event of a search as a line; empty for mere progress."""
    message = str(event.get("message") or event.get("text") or "")
    return f"{event.get('kind', '')}: {message}" if message else ""


def generation_rows(events: Sequence[Mapping[str, Any]]) -> list[GenerationRow]:
    """The generations that the events tell of, in order."""
    rows: list[GenerationRow] = []
    for event in events:
        if event.get("kind") == "generation":
            data = data_of(event)
            score, calls = data.get("score"), data.get("calls")
            if isinstance(calls, Mapping):
                calls = sum(calls.values())  # by role
            rows.append(
                GenerationRow(
                    number=len(rows) + 1,
                    score=float(score) if isinstance(score, int | float) else None,
                    best=str(data.get("best") or ""),
                    calls=calls if isinstance(calls, int) else None,
                )
            )
    return rows


def spending(events: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Calls spent and the budget, as the last progress told them; zeros when none did."""
    for event in reversed(events):
        data = data_of(event)
        if event.get("kind") == "progress" and isinstance(data.get("calls"), int):
            return int(data["calls"]), int(data.get("budget") or 0)
    return 0, 0


def failure_counts(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Failures of the last analysis by type, added up over the tasks."""
    for event in reversed(events):
        counts = data_of(event).get("counts")
        if event.get("kind") == "failures" and isinstance(counts, Mapping):
            total: dict[str, int] = defaultdict(int)
            for name, value in counts.items():
                for kind, count in value.items() if isinstance(value, Mapping) else [(name, value)]:
                    total[str(kind)] += int(count)
            return dict(total)
    return {}
