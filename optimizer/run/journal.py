"""The append-only journal of one run: every reply ever paid for, found again by the content of its request.

One SQLite file in write-ahead mode. Each reply is one row, committed before it is used, so a process killed at any
moment loses only the calls that were still in the air. A full disk rolls the row back and stops the run with a
sentence. Replies are looked up on disk, so a journal of any length opens at once and takes no memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from optimizer.errors import JournalError
from optimizer.records import Completion, Event

_SCHEMA = """
create table if not exists calls (
    seq integer primary key, key blob not null unique, role text not null, purpose text not null, reply blob not null,
    at real not null
);
create table if not exists notes (name text primary key, value blob not null) without rowid;
create table if not exists events (seq integer primary key, event blob not null);
create table if not exists sessions (seq integer primary key, opened real not null);
"""
_FORMAT = 1
PAUSE = 600.0
"""Seconds without a reply that count as a pause, where no session was noted (journals of earlier versions)."""
_LOOKUP_WIDTH = 500  # SQLite's oldest limit on bound values is 999

Kept = tuple[bytes, str, str, Completion, float]
"""One reply to keep: the request's key, role, purpose, the reply, and when it came (seconds since the epoch)."""

_reply_decoder = msgspec.json.Decoder(Completion)
_event_decoder = msgspec.json.Decoder(Event)


class Journal:
    """The open journal. One process holds it at a time. All methods raise ``JournalError``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._translated("opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0.2)
            try:
                self._db.execute("pragma locking_mode = exclusive")
                self._db.execute("pragma journal_mode = wal")
                # NORMAL syncs at checkpoints only: a killed process loses nothing, a power cut at most the last seconds
                self._db.execute("pragma synchronous = normal")
                self._check_format()
                self._db.executescript(_SCHEMA)
            except BaseException:
                self._db.close()
                raise

    def _check_format(self) -> None:
        found = self._db.execute("pragma user_version").fetchone()[0]
        if found not in (0, _FORMAT):
            raise JournalError(
                f"{self.path} was written by another version of this program (format {found}, here {_FORMAT}). "
                "Move it away or use the version that wrote it."
            )
        if found == 0:
            self._db.execute(f"pragma user_version = {_FORMAT}")

    def close(self) -> None:
        """Fold the write-ahead file in and let go of the lock."""
        with self._translated("closed"):
            self._db.close()

    # --- replies -----------------------------------------------------------------------------------------------------

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Completion]:
        """The stored replies among ``keys``."""
        found: dict[bytes, Completion] = {}
        with self._translated("read"):
            for start in range(0, len(keys), _LOOKUP_WIDTH):
                some = keys[start : start + _LOOKUP_WIDTH]
                marks = ",".join("?" * len(some))
                rows = self._db.execute(f"select key, reply from calls where key in ({marks})", some)  # noqa: S608
                found.update((key, _reply_decoder.decode(reply)) for key, reply in rows)
        return found

    def keep(self, *kept: Kept) -> None:
        """Append replies; they are committed, together, when this returns. A key that is already there keeps its first
        reply."""
        insert = "insert or ignore into calls (key, role, purpose, reply, at) values (?, ?, ?, ?, ?)"
        rows = [(key, role, purpose, msgspec.json.encode(reply), at) for key, role, purpose, reply, at in kept]
        with self._translated("written"):
            if len(rows) == 1:
                self._db.execute(insert, rows[0])
                return
            self._db.execute("begin")
            try:
                self._db.executemany(insert, rows)
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise

    def count(self) -> int:
        """How many replies are stored."""
        with self._translated("read"):
            return int(self._db.execute("select coalesce(max(seq), 0) from calls").fetchone()[0])

    def totals(self) -> dict[str, tuple[int, int, int]]:
        """By role: replies stored, their tokens in and out."""
        query = (
            "select role, count(*), sum(json_extract(cast(reply as text), '$.tokens_in')), "
            "sum(json_extract(cast(reply as text), '$.tokens_out')) from calls group by role"
        )
        with self._translated("read"):
            rows = self._db.execute(query).fetchall()
        return {role: (calls, tokens_in or 0, tokens_out or 0) for role, calls, tokens_in, tokens_out in rows}

    # --- sessions ----------------------------------------------------------------------------------------------------

    def opened(self, at: float) -> None:
        """Note that a session begins at ``at`` (seconds since the epoch)."""
        with self._translated("written"):
            self._db.execute("insert into sessions (opened) values (?)", (at,))

    def last_call(self, since: float, until: float) -> float | None:
        """When the last reply of ``since <= at < until`` came; None when there is none."""
        with self._translated("read"):
            row = self._db.execute("select max(at) from calls where at >= ? and at < ?", (since, until)).fetchone()
        return None if row[0] is None else float(row[0])

    def worked(self, now: float) -> float:
        """Seconds worked until ``now`` in all sessions: each earlier one from its opening to its last reply.

        Replies from before the first noted session (an earlier version kept them) count from one to the next, save for
        gaps longer than ``PAUSE``.
        """
        with self._translated("read"):
            openings = [float(at) for (at,) in self._db.execute("select opened from sessions order by seq")]
            first = openings[0] if openings else now
            before = [
                float(at) for (at,) in self._db.execute("select at from calls where at < ? order by at", (first,))
            ]
        seconds = sum(gap for one, two in pairwise(before) if (gap := two - one) <= PAUSE)
        for opening, following in pairwise(openings):
            last = self.last_call(opening, following)
            seconds += 0.0 if last is None else last - opening
        return seconds + (max(0.0, now - openings[-1]) if openings else 0.0)

    # --- notes: small named values -----------------------------------------------------------------------------------

    def note(self, name: str) -> Any:
        """The value noted under ``name``, or None."""
        with self._translated("read"):
            row = self._db.execute("select value from notes where name = ?", (name,)).fetchone()
        return msgspec.json.decode(row[0]) if row else None

    def notes(self, prefix: str) -> dict[str, Any]:
        """All notes whose name begins with ``prefix``."""
        with self._translated("read"):
            rows = self._db.execute(
                "select name, value from notes where substr(name, 1, ?) = ?", (len(prefix), prefix)
            ).fetchall()
        return {name: msgspec.json.decode(value) for name, value in rows}

    def set_note(self, name: str, value: Any) -> None:
        """Note a JSON value under ``name``, replacing what was there; None removes it."""
        with self._translated("written"):
            if value is None:
                self._db.execute("delete from notes where name = ?", (name,))
            else:
                self._db.execute("insert or replace into notes values (?, ?)", (name, msgspec.json.encode(value)))

    # --- events ------------------------------------------------------------------------------------------------------

    def append_event(self, event: Event) -> None:
        """Append one event of the run."""
        with self._translated("written"):
            self._db.execute("insert into events (event) values (?)", (msgspec.json.encode(event),))

    def events(self) -> Iterator[Event]:
        """All events in order."""
        with self._translated("read"):
            rows: Iterable[tuple[bytes]] = self._db.execute("select event from events order by seq")
            for (event,) in rows:
                yield _event_decoder.decode(event)

    @contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        """Turn what SQLite and the file system raise into one sentence that says how to go on."""
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "full" in text:
                advice = "The disk is full. Free some space and start again with --resume: nothing paid for is lost"
            elif "locked" in text or "busy" in text:
                advice = "Another process is working on this run. Wait for it, or give this run another home"
            else:
                advice = "Check the folder's permissions and the disk, then start again with --resume"
            raise JournalError(f"The journal {self.path} cannot be {verb} ({text}). {advice}.") from error
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"The journal {self.path} cannot be {verb}: {error}. It is damaged or no journal; move it away."
            ) from error
        except OSError as error:
            raise JournalError(
                f"The journal {self.path} cannot be {verb}: {error.strerror or error}. Give the run another home."
            ) from error
