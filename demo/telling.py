"""What the steps of the story share, and how they are entered and left: in order, whatever happens."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import APIError

from demo.app import App, Notebook, what_went_wrong
from demo.control import Operator
from demo.fleet import Fleet
from demo.show import Show
from demo.stage import DOMAIN, Keys, LocalModel, Sizes
from processes import House, ProcessError, claim_home

STORY = "story.json"
STAYS = frozenset({".env", "logs", "up.lock"})
"""What a new demo keeps of the last one."""


@dataclass
class Telling:
    """Everything the steps share."""

    folder: Path
    sizes: Sizes
    models: list[LocalModel]
    keys: Keys
    show: Show
    house: House
    app: App
    operator: Operator
    fleet: Fleet
    notebook: Notebook
    started: float
    clock: Callable[[], float] = time.monotonic
    traffic_calls: int = 0
    """Exchanges beside the ones in the notebook."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What is known so far, also after an interruption: run, version, how fast pointers were seen to move."""

    def seconds(self) -> float:
        """How long the story took so far, pauses left out."""
        return float(self.facts.get("seconds_before", 0.0)) + self.clock() - self.started

    def keep(self, **facts: Any) -> None:
        """Write facts down in ``story.json``, in one piece."""
        self.facts.update(facts)
        draft = self.folder / "story.tmp"
        draft.write_text(json.dumps(self.facts) + "\n", "utf-8")
        draft.replace(self.folder / STORY)


def clear_the_stage(folder: Path) -> dict[str, Any]:
    """Make the folder and return the facts of an unfinished demo in it; what a finished one left is removed.

    Raises ProcessError when the folder cannot be written or a demo runs in it.
    """
    with contextlib.closing(claim_home(folder)):
        with contextlib.suppress(OSError, ValueError):
            facts: dict[str, Any] = json.loads((folder / STORY).read_text("utf-8"))
            if not (folder / "summary.json").exists():
                return facts
        for leftover in folder.iterdir():
            if leftover.name not in STAYS:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return {}


@contextlib.contextmanager
def told_on(
    folder: Path,
    sizes: Sizes,
    models: list[LocalModel],
    keys: Keys,
    show: Show,
    house: House,
    facts: dict[str, Any],
    started: float,
) -> Iterator[Telling]:
    """The clients of the story, closed with it; an SDK error in it becomes one sentence."""
    name = models[0].name

    def gateway() -> int:
        return next(child.process.pid for child in house.tree.running if child.program.name == "gateway")

    ping = {"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    with contextlib.ExitStack() as stack:
        app = App(house.url, keys.app, name)
        operator = Operator(house.url, keys.operator, DOMAIN)
        fleet = Fleet(house.url, gateway, keys.app, ping)
        for client in (app, operator, fleet):
            stack.callback(client.close)
        notebook = Notebook(folder / "exchanges.jsonl")
        telling = Telling(
            folder, sizes, models, keys, show, house, app, operator, fleet, notebook, started, facts=facts
        )
        telling.keep(begun=True)
        try:
            yield telling
        except KeyboardInterrupt:
            telling.keep(seconds_before=telling.seconds())
            show.fact("stopped; the next demo on this home goes on from here")
            raise
        except APIError as error:
            cause = house.tree.failure or f"The app got no answer: {what_went_wrong(error)}"
            raise ProcessError(f"{cause} (logs: {house.tree.logs}; start again to go on)") from error


def stay_open(house: House) -> None:
    """Until Ctrl-C. Raises ProcessError when a process cannot be kept alive."""
    with contextlib.suppress(KeyboardInterrupt):
        house.tree.wait()
