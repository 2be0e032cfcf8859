"""The customer's app: an unmodified OpenAI SDK, pointed at the gateway by ``base_url``. It knows nothing of prompts.

It asks for the sentiment of one sentence after the other. Later, when people have read them, it tells the gateway what
each answer should have been.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openai import APIError, OpenAI

USER_PROMPT = "What is the sentiment of this customer feedback?\n\n{question}"
LABELS = ("positive", "negative")
ANSWER_TOKENS = 12
"""What the app asks for: enough to name a label in a short sentence."""


@dataclass(frozen=True)
class Row:
    """One sentence of the demo's data with the label that people gave it."""

    id: str
    task: str
    question: str
    answer: str


@dataclass(frozen=True)
class Exchange:
    """What came back for one row: the reply, and what the gateway said of it in its response headers."""

    row: str
    task: str
    reply: str
    id: str
    version: int | None
    arm: str


def read_rows(folder: Path, part: str, most: int) -> list[Row]:
    """The first `most` rows of ``folder/part.jsonl``."""
    lines = (folder / f"{part}.jsonl").read_text("utf-8").split("\n")[:most]
    return [Row(row["id"], folder.name, row["question"], row["answer"]) for row in map(json.loads, filter(None, lines))]


def in_turn(groups: Sequence[Sequence[Row]]) -> Iterator[Row]:
    """Rows of all groups, one of each in turn, as traffic of several kinds arrives."""
    for place in range(max(map(len, groups), default=0)):
        yield from (group[place] for group in groups if place < len(group))


def first_label(reply: str) -> str | None:
    """The label that a reply names first: how the app reads a sentence."""
    places = {label: reply.lower().find(label) for label in LABELS}
    return (
        min((place, label) for label, place in places.items() if place >= 0)[1] if max(places.values()) >= 0 else None
    )


class App:
    """One customer app with its own gateway key. Raises the SDK's errors: an app sees what an app would see."""

    def __init__(self, url: str, key: str, model: str, *, parallel: int = 4) -> None:
        self.model, self.parallel = model, parallel
        self.client = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=3, timeout=60)

    def ask(self, row: Row, unit: str) -> Exchange:
        """One exchange: the app's own user prompt, no system prompt. The gateway adds the domain's."""
        reply = self.client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=[{"role": "user", "content": USER_PROMPT.replace("{question}", row.question)}],
            max_tokens=ANSWER_TOKENS,
            temperature=0,
            extra_headers={"x-metaspo-task": row.task, "x-metaspo-unit": unit},
        )
        version = reply.headers.get("x-metaspo-version")
        return Exchange(
            row=row.id,
            task=row.task,
            reply=reply.parse().choices[0].message.content or "",
            id=reply.headers.get("x-metaspo-exchange", ""),
            version=int(version) if version else None,
            arm=reply.headers.get("x-metaspo-arm", "none"),
        )

    def ask_all(self, rows: Iterable[tuple[Row, str]], each: Callable[[Exchange], None]) -> list[Exchange]:
        """Ask for every (row, unit), a few at a time; `each` sees every exchange as it is done, in the rows' order."""
        done = []
        pool = ThreadPoolExecutor(self.parallel)
        try:
            for exchange in pool.map(lambda pair: self.ask(*pair), rows):
                each(exchange)
                done.append(exchange)
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C nothing more is asked
        return done

    def tell(self, exchange: str, reference: str) -> None:
        """What the answer should have been, long after it was given."""
        self.client.post("/feedback", cast_to=object, body={"exchange": exchange, "reference": reference})

    def close(self) -> None:
        self.client.close()


class Notebook:
    """The exchanges so far, one JSON line each, so that an interrupted demo goes on where it stopped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Exchange]:
        if not self.path.exists():
            return []
        done = []
        for line in self.path.read_text("utf-8").split("\n"):
            try:
                done.append(Exchange(**json.loads(line)))
            except (ValueError, TypeError):
                continue  # the last line of a process that was killed while it wrote
        return done

    def add(self, exchange: Exchange) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(exchange), ensure_ascii=False) + "\n")


def what_went_wrong(error: APIError) -> str:
    """An SDK error as one sentence for the operator."""
    body: Any = error.body
    said = body.get("message") if isinstance(body, dict) else None
    return str(said or error.message or error)
