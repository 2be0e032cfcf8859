"""Processes: one worker, or several under a parent that keeps them alive.

The parent binds one listening socket for each worker (``SO_REUSEPORT``: the kernel spreads connections over them)
and forks. A worker that dies is started again on its socket: what was waiting there is not lost. SIGTERM and SIGINT
drain, SIGHUP reads the config file again, in every worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import uvicorn

from gateway.allocator import keep_freed_memory
from gateway.app import App, settle_memory
from gateway.errors import StartFailed
from gateway.protocol import SWEEP, GatewayProtocol
from gateway.settings import CLIENT_KEEP_ALIVE
from gateway.worker import Worker
from registry import RegistryError, Settings

log = logging.getLogger("gateway")

BACKLOG = 4096
CRASHES, WINDOW = 5, 30.0
"""A worker that dies more than CRASHES times within WINDOW seconds is not started again: the gateway gives up."""

OURS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

Reload = Callable[[], Settings]


class Server(uvicorn.Server):
    """uvicorn's server: drains on SIGTERM and SIGINT and then ends by itself, reloads on SIGHUP, sweeps connections."""

    def __init__(self, config: uvicorn.Config, worker: Worker, reload: Reload | None) -> None:
        super().__init__(config)
        self._worker = worker
        self._reload = reload
        self._ticks = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the loop's own handlers, and without raising the signal again at the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._drain)
        loop.add_signal_handler(signal.SIGHUP, self._read_again)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # one that came during the start counts, too
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _drain(self) -> None:
        self._worker.draining = True
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    def _read_again(self) -> None:
        if self._reload is None:
            return
        try:
            self._worker.reload(self._reload())
        except RegistryError as error:
            log.warning("the config file was not taken, the old settings stay: %s", error)
        else:
            log.info("the config file was read again")

    async def on_tick(self, counter: int) -> bool:
        if counter % max(1, round(SWEEP * 10)) == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, GatewayProtocol):
                    connection.sweep(now)
        return await super().on_tick(counter)


def run_worker(
    settings: Settings,
    listener: socket.socket,
    *,
    number: int = 0,
    workers: int = 1,
    scratch: Path | None = None,
    redis_url: str | None = None,
    reload: Reload | None = None,
) -> None:
    """Run one worker on this socket until it is told to stop."""
    worker = Worker(settings, number=number, workers=workers, scratch=scratch, redis_url=redis_url)
    app = App(worker)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=type("Protocol", (GatewayProtocol,), {"worker": worker}),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=CLIENT_KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.gateway.drain)),
        backlog=BACKLOG,
    )
    keep_freed_memory()
    settle_memory()
    Server(config, worker, reload).run(sockets=[listener])


def serve(settings: Settings, workers: int | None = None, *, reload: Reload | None = None) -> None:
    """Run the gateway until it is told to stop. ``reload`` reads the config file again. Raises StartFailed,
    RegistryError."""
    count = workers or settings.gateway.workers
    set_up_logging(settings)
    for note in settings.notes:
        log.warning("the config file: %s", note)
    if settings.gateway.otel:
        from gateway.telemetry import check_installed

        check_installed()  # once and in a sentence, before each worker fails on its own
    home = settings.home.expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartFailed(
            f"The folder {home} cannot be made: {error.strerror}. Set `home` to a writable one."
        ) from None
    listeners = listen(settings.host, settings.port, count)
    redis_url, stop_storage = storage(settings, home)
    scratch = Path(tempfile.mkdtemp(prefix="metaspo-metrics-"))
    address = listeners[0].getsockname()
    log.info("listening on %s:%s with %d worker(s)", address[0], address[1], count)
    share: dict[str, Any] = {"scratch": scratch, "redis_url": redis_url, "reload": reload}
    try:
        if count == 1:
            run_worker(settings, listeners[0], **share)
        else:
            Parent(settings, listeners, share).run()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        stop_storage()


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """One listening socket per worker, all on the same address. Raises StartFailed when the port is taken."""
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listeners: list[socket.socket] = []
    try:
        # a port that somebody else shares with SO_REUSEPORT would be shared with us too: ask without it first
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            if port == 0:
                port = probe.getsockname()[1]
        for _ in range(count):
            listener = socket.socket(family, socket.SOCK_STREAM)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if count > 1:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
            listener.set_inheritable(True)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise StartFailed(
            f"Cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}. "
            "Set `listen` to a free address, or stop what uses this one."
        ) from None
    return listeners


def on_data_plane(settings: Settings) -> str | None:
    """The address with the rights of the data plane alone, where this gateway has no control plane and such a user."""
    return settings.redis_url_data_plane if not settings.gateway.control_plane else None


def storage(settings: Settings, home: Path) -> tuple[str | None, Callable[[], None]]:
    """The registry's address: configured, or of the embedded server of this home (started here when none runs)."""
    if (address := on_data_plane(settings) or settings.redis_url) is not None:
        return address, lambda: None
    from registry import EmbeddedRedis, running_url

    if (url := running_url(home)) is not None:
        return url, lambda: None
    try:
        embedded = EmbeddedRedis.start(home)
    except RegistryError as error:
        log.warning("no registry: serving from the snapshot file and the config alone (%s)", error)
        return None, lambda: None
    return embedded.url, embedded.stop


class Parent:
    """Forks the workers, passes signals on, starts again what dies."""

    def __init__(self, settings: Settings, listeners: list[socket.socket], share: dict[str, Any]) -> None:
        self.settings = settings
        self.listeners = listeners
        self.share = share
        self.running: dict[int, int] = {}
        """Number of the worker by process id."""
        self.ending = False

    def run(self) -> None:
        """Keep the workers alive until told to stop. Raises StartFailed when they cannot live."""
        settle_memory()
        for signum in OURS:
            signal.signal(signum, self._pass_on)
        for number in range(len(self.listeners)):
            self._begin(number)
        deaths: list[float] = []
        while self.running:
            pid, status = os.wait()
            number = self.running.pop(pid, -1)
            if number < 0 or self.ending:
                continue
            log.error("worker %d ended by itself (%s): starting it again", number, _how(status))
            now = time.monotonic()
            deaths = [when for when in deaths if now - when < WINDOW] + [now]
            if len(deaths) > CRASHES:
                self._pass_on(signal.SIGTERM, None)
                raise StartFailed("The gateway's workers end as soon as they start: see the log above.")
            self._begin(number)

    def _begin(self, number: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, OURS)  # the child must not run this process's handlers
        try:
            if self.ending:
                return
            pid = os.fork()
            if pid == 0:
                self._work(number)
            self.running[pid] = number
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS)

    def _work(self, number: int) -> NoReturn:
        """The child's life. SIGHUP stays blocked until the server handles it."""
        code = 1
        try:
            for signum in OURS:
                signal.signal(signum, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OURS - {signal.SIGHUP})
            for other, listener in enumerate(self.listeners):
                if other != number:
                    listener.close()
            run_worker(self.settings, self.listeners[number], number=number, workers=len(self.listeners), **self.share)
            code = 0
        except (StartFailed, RegistryError) as error:
            log.critical("%s", error)
        except Exception:
            log.exception("worker %d failed", number)
        finally:
            logging.shutdown()
            os._exit(code)

    def _pass_on(self, signum: int, _frame: object) -> None:
        if signum == signal.SIGHUP and self.share["reload"] is not None:
            with contextlib.suppress(RegistryError):  # the workers say what is wrong with it
                self.settings = self.share["reload"]()  # for those that are started later
        elif signum != signal.SIGHUP:
            self.ending = True
            for listener in self.listeners:
                listener.close()
        for pid in list(self.running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"code {code}"


def set_up_logging(settings: Settings) -> None:
    """One line per event, text or JSON, on standard error. Never a request's content."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.gateway.log_format == "json":
        handler.setFormatter(JsonLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.gateway.log.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


class JsonLines(logging.Formatter):
    """A log record as one JSON object: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        line: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
