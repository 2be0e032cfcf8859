"""The process tree with real processes: ready or refused, revived, ended in order, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from processes import ProcessError, Program, Tree, alive, claim_home, free_address, url_of
from processes.tree import CRASHES
from registry.embedded import EmbeddedRedis

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
WEB = (
    "from http.server import HTTPServer, SimpleHTTPRequestHandler; import sys;"
    "HTTPServer(('127.0.0.1', int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()"
)


def soon(holds: Callable[[], bool], within: float = 20.0) -> bool:
    """Whether `holds` becomes true within so many seconds."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def tree(tmp_path: Path, said: list[str]):
    with Tree(tmp_path, say=said.append) as running:
        yield running


def test_a_program_is_ready_when_its_address_answers(tree: Tree, free_port: int) -> None:
    tree.start(Program("web", [sys.executable, "-c", WEB, str(free_port)], ready_url=f"http://127.0.0.1:{free_port}/"))
    with socket.create_connection(("127.0.0.1", free_port), timeout=2):
        pass


def test_leaving_the_tree_ends_every_process_also_those_that_ignore_sigterm(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    with Tree(tmp_path, say=lambda _: None) as tree:
        one = tree.start(Program("sleeper", SLEEP))
        two = tree.start(Program("stubborn", [sys.executable, "-c", stubborn], grace=0.3))
        assert soon(lambda: "up" in two.log.read_text())
    assert not alive(one.process.pid)
    assert not alive(two.process.pid)


def test_children_of_children_end_too(tmp_path: Path) -> None:
    parent = f"import subprocess, time; c = subprocess.Popen({SLEEP!r}); print(c.pid, flush=True); time.sleep(600)"
    with Tree(tmp_path, say=lambda _: None) as tree:
        child = tree.start(Program("parent", [sys.executable, "-c", parent]))
        assert soon(lambda: child.log.read_text().strip().isdigit())
        grandchild = int(child.log.read_text())
    assert soon(lambda: not alive(grandchild))


def test_a_dead_program_is_started_again(tree: Tree, said: list[str]) -> None:
    first = tree.start(Program("sleeper", SLEEP)).process.pid
    os.kill(first, signal.SIGKILL)
    assert soon(lambda: tree.running[0].process.pid != first and tree.running[0].process.poll() is None)
    assert said == ["sleeper ended unexpectedly (exit code -9); starting it again"]


def test_a_program_that_ends_again_and_again_makes_the_tree_give_up(tree: Tree, monkeypatch) -> None:
    monkeypatch.setattr("processes.tree.time.sleep", lambda _: None)
    tree.start(Program("moth", [sys.executable, "-c", "print('the lamp is hot'); raise SystemExit(3)"]))
    with pytest.raises(ProcessError, match=r"moth ends again and again: the lamp is hot \(its log: "):
        tree.wait()
    assert (tree.logs / "moth.log").read_text().count("hot") == CRASHES + 1


def test_a_program_that_cannot_start_says_why_and_is_not_tried_again(tree: Tree, free_port: int) -> None:
    program = Program(
        "broken",
        [sys.executable, "-c", "raise SystemExit('no such model')"],
        ready_url=f"http://127.0.0.1:{free_port}/",
    )
    with pytest.raises(ProcessError, match="broken could not start: no such model"):
        tree.start(program)


def test_a_program_that_is_never_ready_is_named(tree: Tree, free_port: int) -> None:
    with pytest.raises(ProcessError, match="dreamer was not ready within 0 s"):
        tree.start(Program("dreamer", SLEEP, ready_url=f"http://127.0.0.1:{free_port}/", patience=0.2))


def test_a_missing_program_is_one_sentence(tree: Tree) -> None:
    with pytest.raises(ProcessError, match="ghost cannot be started"):
        tree.start(Program("ghost", ["/no/such/program"]))


def test_kill_9_of_the_tree_leaves_no_orphan(tmp_path: Path, repository: Path) -> None:
    story = (
        "import sys, time; from pathlib import Path; from processes import Program, Tree\n"
        "with Tree(Path(sys.argv[1]), say=print) as tree:\n"
        f"    print(tree.start(Program('sleeper', {SLEEP!r})).process.pid, tree._keeper.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", story, str(tmp_path)], cwd=repository, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        sleeper, keeper = map(int, owner.stdout.readline().split())
        assert alive(sleeper)
        owner.kill()
    assert soon(lambda: not alive(sleeper))
    assert soon(lambda: not alive(keeper))


def test_the_embedded_redis_comes_back_with_what_it_had_acknowledged(tmp_path: Path, said: list[str]) -> None:
    import redis

    with Tree(tmp_path, say=said.append) as tree:
        url = tree.start_storage(lambda: EmbeddedRedis.start(tmp_path))
        with redis.Redis.from_url(url) as client:
            client.set("version", "2")
        assert tree.storage is not None
        first = tree.storage.pid
        os.kill(first, signal.SIGKILL)
        assert soon(lambda: tree.storage is not None and tree.storage.pid != first)
        with redis.Redis.from_url(tree.storage.url) as client:
            assert client.get("version") == b"2"
        assert tree.storage.url == url
    assert said == ["the embedded Redis ended unexpectedly; starting it again on the same files"]


def test_one_home_one_house(tmp_path: Path) -> None:
    held = pytest.raises(ProcessError, match=f"in use by process {os.getpid()}; stop that one first")
    with contextlib.closing(claim_home(tmp_path)), held:
        claim_home(tmp_path)
    claim_home(tmp_path).close()


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ProcessError, match=r"cannot be written \(Not a directory\); choose another folder"):
        claim_home(tmp_path / "file" / "home")


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ProcessError, match=r"cannot be listened on \(Address already in use\); stop what uses it"):
            free_address(f"127.0.0.1:{other.getsockname()[1]}")


@pytest.mark.parametrize("listen", ["127.0.0.1:http", "127.0.0.1:99999", "no-such-host.invalid:80"])
def test_a_wrong_address_is_one_sentence(listen: str) -> None:
    with pytest.raises(ProcessError, match="listen"):
        free_address(listen)


def test_port_0_draws_a_free_one() -> None:
    host, port = free_address("127.0.0.1:0")
    assert host == "127.0.0.1"
    assert port > 0


def test_where_a_server_is_reached() -> None:
    assert url_of("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert url_of("::", 80) == "http://[::1]:80"
    assert url_of("10.0.0.7", 80) == "http://10.0.0.7:80"
