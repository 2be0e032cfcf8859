"""The running processes of one home: started, watched, restarted, ended in order.

The keeper is a process of a few lines that holds one end of a pipe: when this process dies without a word
(``kill -9``), the pipe closes and the keeper ends every group that is in its books.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol
from urllib.error import URLError
from urllib.request import urlopen

from processes.interrupts import interrupts
from processes.places import ProcessError

HERE = Path(__file__).resolve().parent.parent
CRASHES, WINDOW = 5, 60.0
"""Ended by itself more than CRASHES times within WINDOW seconds, a process is not started again: the tree gives up."""
LOG_BYTES = 8 * 2**20

KEEPER = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for end, how in ((os.kill, signal.SIGTERM), (os.killpg, signal.SIGKILL)):
    for group in groups:
        try:
            end(group, how)
        except (ProcessLookupError, PermissionError):
            pass
    if groups and how == signal.SIGTERM:
        time.sleep(3)
"""


class Storage(Protocol):
    """What the tree needs of an embedded Redis: the registry's ``EmbeddedRedis`` is one."""

    @property
    def url(self) -> str: ...
    @property
    def pid(self) -> int: ...
    def stop(self) -> None: ...


@dataclass(frozen=True)
class Program:
    """One process of the tree: what to run, and the address that answers 200 once it is ready (None: at once)."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready_url: str | None = None
    patience: float = 60.0
    """Seconds until it must be ready."""
    grace: float = 8.0
    """Seconds it has to end after SIGTERM before it and its children are killed."""


@dataclass
class Running:
    program: Program
    process: subprocess.Popen[bytes]
    log: Path
    ended: list[float] = field(default_factory=list)
    """When it ended by itself lately."""
    ready: bool = False
    """A process that ends before it was ever ready is not started again: it has said why in its log."""


def metaspo(*arguments: str) -> list[str]:
    """The command line that runs a metaspo command with this interpreter, installed or straight from the repository."""
    return [sys.executable, str(HERE / "metaspo.py"), *arguments]


def answers(url: str) -> bool:
    """Whether `url` answers 200 within two seconds."""
    try:
        with urlopen(url, timeout=2) as reply:  # noqa: S310 - our own loopback address
            return bool(reply.status == 200)
    except (URLError, OSError, ValueError):
        return False


def last_words(log: Path) -> str:
    """The last line of a log that says something, for the sentence that reports a death."""
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip()[:300] if lines else ""


class Tree:
    """The running processes of one home. Use it as a context manager: leaving it ends them all."""

    def __init__(self, home: Path, *, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.home, self.say, self.clock = home, say, clock
        self.logs = home / "logs"
        self.running: list[Running] = []
        self.storage: Storage | None = None
        self.failure: str | None = None
        """Why the tree gave up, once it has."""
        self._start_storage: Callable[[], Storage] | None = None
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._keeper: subprocess.Popen[str] | None = None

    def __enter__(self) -> Tree:
        with interrupts.held():
            return self._open()

    def _open(self) -> Tree:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", KEEPER], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        self._watcher = threading.Thread(target=self._watch, name="process-watch", daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- starting ---------------------------------------------------------------------------------------------------

    def start_storage(self, start: Callable[[], Storage]) -> str:
        """Start the embedded Redis by `start` (again whenever it dies) and return its URL."""
        with self._lock, interrupts.held():
            self._start_storage = start
            self.storage = start()
            self._keep("+", self.storage.pid)
            return self.storage.url

    def start(self, program: Program) -> Running:
        """Start `program` and wait until it is ready. Raises ProcessError when it ends or is not ready in time."""
        with self._lock, interrupts.held():
            child = self._spawn(program)
            self.running.append(child)
        deadline = self.clock() + program.patience
        while program.ready_url and not answers(program.ready_url):
            if self._stopping.wait(0.05):
                raise ProcessError(f"stopped while {program.name} was starting.")
            if self.failure:
                raise ProcessError(self.failure)
            if self.clock() > deadline:
                raise ProcessError(
                    f"{program.name} was not ready within {program.patience:.0f} s; its log is {child.log}."
                )
        child.ready = True
        return child

    def _spawn(self, program: Program, ended: list[float] | None = None) -> Running:
        log = self.logs / f"{program.name}.log"
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        try:
            with log.open("ab") as out:
                process = subprocess.Popen(
                    program.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **program.env},
                    start_new_session=True,
                )
        except OSError as error:
            raise ProcessError(f"{program.name} cannot be started ({error.strerror}: {program.argv[0]}).") from None
        self._keep("+", process.pid)
        return Running(program, process, log, ended or [], ready=ended is not None)

    def _keep(self, sign: str, pid: int) -> None:
        if self._keeper and self._keeper.stdin:
            with contextlib.suppress(OSError, ValueError):
                self._keeper.stdin.write(f"{sign}{pid}\n")
                self._keeper.stdin.flush()

    # --- watching ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stopping.wait(0.1):
            with self._lock:
                if self._stopping.is_set() or self.failure:
                    continue
                self._watch_storage()
                for place, child in enumerate(self.running):
                    if child.process.poll() is not None:
                        self._revive(place, child)

    def _watch_storage(self) -> None:
        if self.storage is None or self._start_storage is None or alive(self.storage.pid):
            return
        self.say("the embedded Redis ended unexpectedly; starting it again on the same files")
        self._keep("-", self.storage.pid)
        try:
            self.storage.stop()
            self.storage = self._start_storage()
            self._keep("+", self.storage.pid)
        except Exception as error:  # the registry's error is one sentence already; anything else must end the tree too
            self.failure = f"the embedded Redis could not be started again: {error}"

    def _revive(self, place: int, child: Running) -> None:
        now = self.clock()
        ended = [moment for moment in child.ended if now - moment < WINDOW] + [now]
        name, code = child.program.name, child.process.returncode
        self._kill_group(child)
        self._keep("-", child.process.pid)
        words = last_words(child.log)
        if not child.ready or len(ended) > CRASHES:
            often = "ends again and again" if child.ready else "could not start"
            self.failure = f"{name} {often}: {words or f'exit code {code}'} (its log: {child.log})."
            return
        self.say(f"{name} ended unexpectedly (exit code {code}); starting it again")
        time.sleep(min(0.2 * 2 ** (len(ended) - 1), 3.0))
        try:
            self.running[place] = self._spawn(child.program, ended)
        except ProcessError as error:
            self.failure = str(error)

    def wait(self) -> NoReturn:
        """Wait until the tree gives up: then raise ProcessError. Ctrl-C ends it as KeyboardInterrupt."""
        while not self.failure:
            time.sleep(0.2)
        raise ProcessError(self.failure)

    # --- ending -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End every process, the last started first, the store last; safe to call twice. Takes no interruption."""
        with interrupts.held(drop=True):
            self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        if self._watcher and self._watcher is not threading.current_thread():
            self._watcher.join()
        with self._lock:
            for child in reversed(self.running):
                child.process.terminate()  # itself, not its group: a parent tells its children in its own way
            asked = self.clock()
            for child in reversed(self.running):
                grace = child.program.grace
                try:
                    child.process.wait(max(asked + grace - self.clock(), 0.1))
                except subprocess.TimeoutExpired:
                    self.say(f"{child.program.name} did not end within {grace:.0f} s; killing it")
                self._kill_group(child)
                child.process.wait()
                self._keep("-", child.process.pid)
            self.running.clear()
            if self.storage is not None:
                storage, self.storage = self.storage, None
                storage.stop()
                self._keep("-", storage.pid)
            if self._keeper and self._keeper.stdin:
                self._keeper.stdin.close()
                self._keeper.wait()
                self._keeper = None

    @staticmethod
    def _kill_group(child: Running) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether process `pid` runs. A dead child of ours is reaped here, so that it does not look alive as a zombie."""
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class House:
    """What a started house is to those who use it."""

    tree: Tree
    url: str
    """Address of the gateway, without a path."""
    env: Mapping[str, str]
    """What a further process of this house needs in its environment to be one of it."""
