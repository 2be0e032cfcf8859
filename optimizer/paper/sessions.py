"""How long a cell was worked on, over all sessions: when each began is noted, when it ended the journals know.

One line of ``sessions.jsonl`` in the home for every beginning of a cell. A session that was killed lasted until the
last reply that a journal holds of it; the time until the next one is nobody's.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from optimizer.errors import DataError, JournalError
from optimizer.records import Record
from optimizer.run.journal import Journal

FILE = "sessions.jsonl"


class Began(Record, frozen=True, kw_only=True):
    """A cell (the name of its file) was begun at ``at``, seconds since the epoch. ``within`` names the cell that needed
    this one's prompt and waited for it."""

    cell: str
    at: float
    within: str = ""


def begin(home: Path, cell: str, at: float, *, within: str = "") -> None:
    """Note that work on ``cell`` begins. Raises ``DataError``."""
    path = home / FILE
    try:
        home.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            if file.tell() and not _ends_whole(path):
                file.write(b"\n")
            file.write(msgspec.json.encode(Began(cell=cell, at=at, within=within)) + b"\n")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}): mend that and start again.") from error


def worked(home: Path, cell: str, now: float) -> float:
    """Seconds worked on ``cell`` until ``now``, its last beginning being the session that goes on."""
    lines = _read(home / FILE)
    places = [place for place, line in enumerate(lines) if line.cell == cell]
    if not places:
        return 0.0
    seconds = max(0.0, now - lines[places[-1]].at)
    for place in places[:-1]:
        began = lines[place].at
        end = next(line.at for line in lines[place + 1 :] if line.within != cell)
        seconds += max(0.0, _last_call(home, began, end) - began)
    return seconds


def _last_call(home: Path, since: float, until: float) -> float:
    """When the last reply of a session came, ``since`` itself where none did."""
    last = since
    for path in home.rglob("*.journal"):
        try:
            journal = Journal(path)
        except JournalError:  # another process works on it: a count of seconds is no reason to lose a finished cell
            continue
        last = max(last, journal.last_call(since, until) or since)
        journal.close()
    return last


def _ends_whole(path: Path) -> bool:
    return path.read_bytes().endswith(b"\n")


def _read(path: Path) -> list[Began]:
    """All beginnings; a line that a kill cut short is left out."""
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            found.append(msgspec.json.decode(line, type=Began))
        except msgspec.DecodeError:
            continue
    return found
