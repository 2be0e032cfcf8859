"""What the demo prints: numbered steps, facts under them, and a progress bar with the time left on a terminal (plain
lines elsewhere).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

Advance = Callable[[int, str], None]
"""Call it with how many are done in all and what is being done now."""


def _on(bar: Progress, task: TaskID) -> Advance:
    def advance(done: int, now: str) -> None:
        bar.update(task, completed=done, now=now)

    return advance


class Show:
    """Prints to stdout, or to stderr when stdout is for the JSON of the end."""

    def __init__(self, *, to_stderr: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = Console(file=sys.stderr if to_stderr else sys.stdout, highlight=False, soft_wrap=True)
        self.clock, self.started, self.number = clock, clock(), 0

    def step(self, title: str) -> None:
        self.number += 1
        self.console.print(f"\n[bold]{self.number}. {title}[/bold] [dim]({self.clock() - self.started:.0f} s)[/dim]")

    def fact(self, text: str) -> None:
        self.console.print(f"   {text}", markup=False)

    @contextlib.contextmanager
    def progress(self, title: str, total: int) -> Iterator[Advance]:
        """A bar that redraws itself on a terminal; elsewhere a line at every tenth of the way."""
        if self.console.is_terminal:
            columns = (
                TextColumn("   {task.description}"),
                BarColumn(20),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("left"),
                TextColumn("{task.fields[now]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            )
            with Progress(*columns, console=self.console, transient=True, expand=True) as bar:
                task = bar.add_task(title, total=total, now="")
                yield _on(bar, task)
            return
        shown = 0

        def advance(done: int, now: str) -> None:
            nonlocal shown
            tenth = 10 * done // max(total, 1)
            if tenth > shown:
                shown = tenth
                self.fact(f"{title}: {done}/{total} {now}".rstrip())

        yield advance
