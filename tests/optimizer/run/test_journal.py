"""The journal: appended before use, found by content, safe to kill, honest when the disk is full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optimizer.errors import JournalError
from optimizer.records import Completion, Event
from optimizer.run.journal import Journal

REPLY = Completion(text="yes", tokens_in=3, tokens_out=1)


def key(number: int) -> bytes:
    return number.to_bytes(20, "big")


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.journal"
    journal = Journal(path)
    for number in range(1500):
        journal.keep((key(number), "base", f"task/{number}", Completion(text=str(number)), 1.0))
    journal.keep((key(0), "base", "again", Completion(text="other"), 2.0))
    journal.set_note("state", {"at": [1, 2]})
    journal.append_event(Event(kind="a", message="b", at=1.0, data={"n": 1}))
    journal.close()
    journal = Journal(path)
    found = journal.find([key(number) for number in range(0, 3000, 2)])
    assert len(found) == 750
    assert found[key(0)].text == "0"  # the first reply stays
    assert journal.count() == 1500
    assert journal.note("state") == {"at": [1, 2]}
    assert [event.kind for event in journal.events()] == ["a"]
    journal.set_note("state", None)
    assert journal.note("state") is None
    journal.close()


def test_notes_by_prefix(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for name in ("batch:1", "batch:2", "other"):
        journal.set_note(name, name)
    assert journal.notes("batch:") == {"batch:1": "batch:1", "batch:2": "batch:2"}
    journal.close()


def test_a_full_disk_is_a_sentence_and_leaves_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    journal = Journal(path)
    pages = journal._db.execute("pragma page_count").fetchone()[0]
    journal._db.execute(f"pragma max_page_count = {pages + 4}")
    written = 0
    with pytest.raises(JournalError, match=r"disk is full.*--resume"):
        for written in range(1000):
            journal.keep((key(written), "base", "t", Completion(text="x" * 500), 1.0))
    journal.close()
    journal = Journal(path)
    assert 0 < written == journal.count()
    assert len(journal.find([key(number) for number in range(1000)])) == written
    assert journal._db.execute("pragma integrity_check").fetchone()[0] == "ok"
    journal.keep((key(5000), "base", "t", REPLY, 2.0))  # with room again the run goes on
    journal.close()


def test_replies_kept_together_are_kept_wholly_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    journal = Journal(path)
    journal.keep(*((key(n), "base", "t", Completion(text=str(n)), 1.0) for n in range(50)))
    assert journal.count() == 50
    pages = journal._db.execute("pragma page_count").fetchone()[0]
    journal._db.execute(f"pragma max_page_count = {pages + 4}")
    with pytest.raises(JournalError, match=r"disk is full.*--resume"):
        journal.keep(*((key(n), "base", "t", Completion(text="x" * 500), 1.0) for n in range(50, 1000)))
    assert journal.count() == 50
    journal.keep((key(5000), "base", "t", REPLY, 2.0))  # the transaction is over: the next one is its own
    journal.close()
    journal = Journal(path)
    assert len(journal.find([key(number) for number in range(6000)])) == 51
    journal.close()


def test_a_file_size_limit_is_a_sentence_too(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "from pathlib import Path\n"
        "from optimizer.errors import JournalError\n"
        "from optimizer.run.journal import Journal\n"
        "from optimizer.records import Completion\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "try:\n"
        "    for n in range(2000):\n"
        "        journal.keep((n.to_bytes(20, 'big'), 'base', 't', Completion(text='x' * 500), 1.0))\n"
        "except JournalError as error:\n"
        "    print(n, error)\n"
    )
    path = tmp_path / "run.journal"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
    )
    assert "cannot be written" in done.stdout, done.stderr
    journal = Journal(path)
    assert journal.count() == int(done.stdout.split()[0])
    journal.close()


def test_a_killed_writer_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from optimizer.run.journal import Journal\n"
        "from optimizer.records import Completion\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "n = 0\n"
        "while True:\n"
        "    journal.keep((n.to_bytes(20, 'big'), 'base', 't', Completion(text='x' * 2000), 1.0))\n"
        "    n += 1\n"
        "    print(n, flush=True)\n"
    )
    path = tmp_path / "run.journal"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    ) as writer:
        assert writer.stdout is not None
        told = 0
        while told < 300:
            told = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        told = max([told, *(int(line) for line in writer.stdout.read().split())])
    journal = Journal(path)
    assert journal.count() >= told
    assert len(journal.find([key(number) for number in range(told)])) == told
    journal.close()


def test_a_journal_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    path.write_text("not a database, but long enough to be looked at as one" * 40)
    with pytest.raises(JournalError, match="damaged or no journal"):
        Journal(path)


def test_a_newer_format_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    journal = Journal(path)
    journal._db.execute("pragma user_version = 99")
    journal.close()
    with pytest.raises(JournalError, match="another version"):
        Journal(path)


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("x")
    with pytest.raises(JournalError, match="another home"):
        Journal(tmp_path / "home" / "run.journal")


def test_looking_up_does_not_load_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "big.journal")
    journal._db.execute("begin")
    for number in range(20_000):
        journal.keep((key(number), "base", "t", REPLY, 1.0))
    journal._db.execute("commit")
    journal.close()
    began = time.perf_counter()
    journal = Journal(tmp_path / "big.journal")
    assert key(19_999) in journal.find([key(19_999)])
    assert time.perf_counter() - began < 5.0
    journal.close()


def kept(journal: Journal, *times: float) -> None:
    journal.keep(*((key(int(at * 10)), "base", "", REPLY, at) for at in times))


def test_seconds_worked_are_those_of_all_sessions_and_not_those_between(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    for opening, replies in ((100.0, (105.0, 130.0)), (9_000.0, ()), (20_000.0, (20_004.0,))):
        journal = Journal(path)
        journal.opened(opening)
        kept(journal, *replies)
        assert journal.worked(opening + 50) == 50 + (30 if opening > 100 else 0)
        journal.close()


def test_a_journal_of_before_sessions_were_noted_counts_from_reply_to_reply(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    journal = Journal(path)
    journal._db.execute("drop table sessions")  # as an earlier version wrote it
    kept(journal, 100.0, 130.0, 5_000.0, 5_010.0)
    journal.close()
    journal = Journal(path)
    assert journal.count() == 4 and journal.worked(9_000.0) == 30 + 10
    journal.opened(9_000.0)
    assert journal.worked(9_007.0) == 30 + 10 + 7
    journal.close()
