"""Following work: a bar with calls, spend and the time left on a terminal, plain lines elsewhere; on standard error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from optimizer.records import Event


class Follower:
    """Follows the events of a run. ``total`` are the calls that it makes at most, None where nobody knows."""

    def __init__(self, total: int | None, *, doing: str = "searching", bar: bool = True) -> None:
        self._total = total
        self._doing = doing
        self._wanted = bar
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Follower:
        if self._wanted and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(20),
                TextColumn("{task.fields[spent]},"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._doing, total=self._total, spent="0 calls")
        return self

    def __exit__(self, *failure: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Show one event of the optimizer."""
        if isinstance(total := event.data.get("total"), int):
            self.progress(0, total=total)
        if event.kind == "progress":
            self.progress(int(event.data["calls"]), float(event.data["usd"]))
        else:
            self.say(f"{event.kind}: {event.message}" if event.message else event.kind)

    def progress(self, calls: int, usd: float | None = None, *, total: int | None = None) -> None:
        """So many calls are made, for so much money. ``total`` corrects what the run makes at most."""
        if total is not None:
            self._total = total
        if self._bar is not None:
            of = f" of {self._total:,}" if self._total else ""
            spent = f"{calls:,}{of} calls" + (f", {usd:.4f} USD" if usd is not None else "")
            self._bar.update(self._task, completed=calls, total=self._total, spent=spent)

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            click.echo(line, err=True)
