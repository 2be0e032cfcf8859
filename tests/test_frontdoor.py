"""The front door as a user meets it: real processes, one clear sentence for what is wrong, nothing left running."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

import metaspo as front_door
from registry import EmbeddedRedis
from tests.conftest import Start
from tests.running import Command, none_alive, soon

OPERATOR, CALLER = "op-key-of-the-test", "app-key-of-the-test"


@pytest.fixture
def config(tmp_path: Path, free_port: int, upstream: str) -> dict[str, object]:
    """A config that works: an echo provider, one domain with a first prompt, a caller and an operator."""
    return {
        "home": str(tmp_path / "home"),
        "listen": f"127.0.0.1:{free_port}",
        "upstreams": [{"name": "echo", "base_url": upstream, "api_key": "none"}],
        "keys": [
            {"name": "app", "role": "caller", "key": CALLER, "domain": "support"},
            {"name": "ops", "role": "operator", "key": OPERATOR},
        ],
        "domains": {"support": {"system_prompt": "first"}},
    }


def written(config: dict[str, object], folder: Path) -> str:
    (folder / "house.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return str(folder / "house.yaml")


def refused(command: Command, *, code: int, says: str) -> None:
    """It ended by itself with this code and one sentence, and nothing of it runs."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = command.family()
    assert command.process.wait(90) == code, command.text
    assert says in command.text, command.text
    assert "Traceback" not in command.text
    assert len([line for line in command.text.splitlines() if line.startswith("Error: ")]) == 1
    assert none_alive(family)


# --- the command line ------------------------------------------------------------------------------------------------


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert front_door.main(["--help"]) == 0
    said = capsys.readouterr().out
    for name in [*front_door.MOUNTED, "up", "demo", "doctor", "simulate"]:
        assert f"\n  {name} " in said, name


@pytest.mark.parametrize("name", [*front_door.MOUNTED, "up", "demo", "doctor", "simulate"])
def test_every_command_can_be_asked_for_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert front_door.main([name, "--help"]) == 0
    assert "Usage: metaspo" in capsys.readouterr().out


@pytest.mark.parametrize("name", front_door.SIMULATIONS)
def test_simulations_of_both_packages_stand_in_one_group(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert front_door.main(["simulate", name, "--help"]) == 0
    assert "--seed" in capsys.readouterr().out


def test_a_mistyped_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert front_door.main(["optimise"]) == 2
    assert "Did you mean 'optimize'?" in capsys.readouterr().err


def test_a_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert front_door.main(["up", "--workers", "0"]) == 2
    assert "Error: Invalid value for '--workers'" in capsys.readouterr().err


def test_a_config_file_that_is_not_there_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert front_door.main(["--config", "no-such-file.yaml", "doctor"]) == 2
    assert "no-such-file.yaml" in capsys.readouterr().err


def test_what_nobody_foresaw_leaves_its_traceback_in_a_file(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def surprise(_: object) -> None:
        raise LookupError("the cat is out")

    monkeypatch.setattr(front_door, "settings_of", surprise)
    assert front_door.main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert "LookupError: the cat is out" in said
    assert "Traceback" not in said
    (kept,) = tmp_path.glob("metaspo-*.traceback")
    assert str(kept) in said
    assert "def surprise" in kept.read_text() or "surprise" in kept.read_text()


def test_ctrl_c_before_the_first_command_is_no_traceback(repository: Path) -> None:
    code = "import metaspo; raise KeyboardInterrupt"  # as while the rest of the modules is loaded
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "\nstopped.\n"


# --- bad input to up -------------------------------------------------------------------------------------------------


def test_a_typo_in_the_config_names_the_nearest_key(metaspo: Start, config, tmp_path: Path) -> None:
    config["upstreem"] = config.pop("upstreams")
    refused(metaspo("--config", written(config, tmp_path), "up"), code=1, says="upstreams")


def test_a_wrong_type_in_the_config_is_named(metaspo: Start, config, tmp_path: Path) -> None:
    config["gateway"] = {"workers": "many"}
    refused(metaspo("--config", written(config, tmp_path), "up"), code=1, says="workers")


def test_a_taken_port(metaspo: Start, config, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config["listen"] = f"127.0.0.1:{other.getsockname()[1]}"
        says = f"{config['listen']} cannot be listened on (Address already in use); stop what uses it"
        refused(metaspo("--config", written(config, tmp_path), "up"), code=1, says=says)


def test_doctor_names_an_address_that_something_else_has(metaspo: Start, config, tmp_path: Path, upstream: str) -> None:
    config["listen"] = upstream.removeprefix("http://").removesuffix("/v1")
    doctor = metaspo("--config", written(config, tmp_path), "doctor", "--json")
    assert doctor.process.wait(60) == 1
    findings, _ = json.JSONDecoder().raw_decode(doctor.text[doctor.text.index("[") :])
    address = next(finding for finding in findings if finding["name"] == "gateway address")
    assert not address["ok"] and address["mend"].startswith("stop what uses it")


def test_an_address_that_is_not_redis(metaspo: Start, config, tmp_path: Path) -> None:
    config["redis_url"] = "http://localhost:6379"
    says = "'http://localhost:6379' is not an address of Redis, like redis://host:6379/0"
    refused(metaspo("--config", written(config, tmp_path), "up"), code=1, says=says)


def test_a_schedule_that_cannot_be_read(metaspo: Start, config, tmp_path: Path) -> None:
    config["domains"] = {"support": {"schedule": "61 3 * * 0"}}
    refused(metaspo("--config", written(config, tmp_path), "up"), code=1, says="'61' is no minute")


def test_a_redis_that_is_down_is_said_and_requests_are_answered(metaspo: Start, config, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config["redis_url"] = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
        up = Up(metaspo("--config", written(config, tmp_path), "up"), config)
        assert f"missing  storage: Redis at {config['redis_url']} cannot be reached" in up.command.text
        assert up.ask().status_code == 200
        family = up.command.family()
        assert up.command.end(signal.SIGINT) == 0
        assert none_alive(family)
        assert "Traceback" not in up.command.text


def test_a_home_that_cannot_be_written(metaspo: Start, config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    config["home"] = str(tmp_path / "file" / "home")
    refused(metaspo("--config", written(config, tmp_path), "up"), code=1, says="choose another folder with `home:`")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "missing.gguf"], "There is no model file missing.gguf: name a GGUF file with --model"),
        (["--models", "."], "must be a folder with two GGUF files"),
        (["--model", "broken.gguf"], "could not be loaded as a GGUF language model"),
    ],
)
def test_a_model_that_cannot_be_served(metaspo: Start, tmp_path: Path, arguments: list[str], says: str) -> None:
    pytest.importorskip("xllamacpp", reason="the embedded language model is not installed")
    (tmp_path / "broken.gguf").write_text("this is no model")
    refused(metaspo("demo", "--home", "home", *arguments), code=1, says=says)


# --- up, in one piece ------------------------------------------------------------------------------------------------


class Up:
    """A house that is up, seen from outside."""

    def __init__(self, command: Command, config: dict[str, object]) -> None:
        assert command.says("Ctrl-C stops it."), command.text
        self.command = command
        self.url = f"http://{config['listen']}"

    def ask(self, content: str = "hello") -> httpx.Response:
        body = {"model": "m", "messages": [{"role": "user", "content": content}]}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers={"x-api-key": CALLER}, timeout=30)

    def operate(self, path: str, body: dict[str, object] | None = None) -> httpx.Response:
        url, headers = f"{self.url}/api/domains/support/{path}", {"x-api-key": OPERATOR}
        if body is None:
            return httpx.get(url, headers=headers, timeout=30)
        return httpx.post(url, json=body, headers=headers, timeout=30)

    def redis(self) -> psutil.Process:
        return next(one for one in self.command.family() if "valkey" in one.name() or "redis" in one.name())


def test_up_serves_moves_and_ends_without_an_orphan(metaspo: Start, config, tmp_path: Path) -> None:
    up = Up(metaspo("--config", written(config, tmp_path), "up", "--workers", "2"), config)
    reply = up.ask()
    assert reply.json()["choices"][0]["message"]["content"] == "first"
    assert reply.headers["x-metaspo-version"] == "1"
    assert up.operate("versions", {"system_prompt": "second"}).json()["version"] == 2
    assert up.operate("promote", {"version": 2, "why": "a test"}).status_code == 200
    assert soon(lambda: up.ask().headers["x-metaspo-version"] == "2", 5)

    second = metaspo("--config", written({**config, "listen": "127.0.0.1:0"}, tmp_path), "up")
    refused(second, code=1, says="is in use by process")
    assert up.ask().status_code == 200, "the first one goes on"

    family = up.command.family()
    assert len(family) >= 6, "front door, keeper, Redis, gateway with two workers, jobs worker, scheduler"
    assert up.command.end(signal.SIGINT) == 0
    assert none_alive(family)
    assert "Traceback" not in up.command.text


def test_kill_9_of_redis_neither_stops_answers_nor_loses_what_was_acknowledged(
    metaspo: Start, config, tmp_path: Path
) -> None:
    up = Up(metaspo("--config", written(config, tmp_path), "up"), config)
    assert up.operate("versions", {"system_prompt": "second"}).json()["version"] == 2
    acknowledged = up.operate("promote", {"version": 2, "why": "a test"})
    assert acknowledged.json()["stable"] == 2
    up.redis().kill()
    replies = [up.ask() for _ in range(20)]
    assert {reply.status_code for reply in replies} == {200}
    assert up.command.says("the embedded Redis ended unexpectedly; starting it again")
    kept = soon(lambda: (answer := up.operate("deployment")).status_code == 200 and answer.json(), 30)
    assert kept["stable"] == 2
    assert soon(lambda: up.ask().headers.get("x-metaspo-version") == "2", 10)


def test_kill_9_of_the_house_leaves_no_orphan_and_the_next_start_goes_on(
    metaspo: Start, config, tmp_path: Path
) -> None:
    file = written(config, tmp_path)
    up = Up(metaspo("--config", file, "up"), config)
    assert up.operate("versions", {"system_prompt": "second"}).json()["version"] == 2
    assert up.operate("promote", {"version": 2, "why": "a test"}).json()["stable"] == 2
    family = up.command.family()
    up.command.process.kill()
    assert none_alive(family)
    again = Up(metaspo("--config", file, "up"), config)
    assert again.ask().headers["x-metaspo-version"] == "2"
    family = again.command.family()
    assert again.command.end(signal.SIGTERM) == 0
    assert none_alive(family)


def test_ctrl_c_lets_the_answers_in_hand_be_finished(metaspo: Start, config, tmp_path: Path) -> None:
    up = Up(metaspo("--config", written(config, tmp_path), "up"), config)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(up.ask, "slowly, please")
        time.sleep(0.7)
        assert up.command.end(signal.SIGINT) == 0
        assert answer.result().status_code == 200
        assert answer.result().json()["choices"][0]["message"]["content"] == "first"


def test_ctrl_c_while_it_starts_leaves_nothing(metaspo: Start, config, tmp_path: Path) -> None:
    command = metaspo("--config", written(config, tmp_path), "up")
    assert soon(lambda: (tmp_path / "home" / "up.lock").exists())
    family = command.family()
    assert command.end(signal.SIGINT) in (0, 1)
    assert none_alive(family)
    assert "Traceback" not in command.text


def test_a_worker_that_is_killed_comes_back(metaspo: Start, config, tmp_path: Path) -> None:
    up = Up(metaspo("--config", written(config, tmp_path), "up"), config)
    gateway = next(one for one in up.command.family() if "serve" in one.cmdline())
    os.kill(gateway.pid, signal.SIGKILL)
    assert up.command.says("gateway ended unexpectedly (exit code -9); starting it again")

    def answered() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return up.ask().status_code == 200
        return False

    assert soon(answered, 60)


def test_an_upstream_that_is_down_is_an_error_of_its_dialect_and_a_finding_of_doctor(
    metaspo: Start, config, tmp_path: Path, free_port: int
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config["upstreams"] = [
            {"name": "gone", "base_url": f"http://127.0.0.1:{nobody.getsockname()[1]}/v1", "api_key": "none"}
        ]
        file = written(config, tmp_path)
        up = Up(metaspo("--config", file, "up"), config)
        reply = up.ask()
        assert reply.status_code in (502, 503), (reply.text, reply.headers)
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        doctor = metaspo("--config", file, "doctor", "--json")
        assert doctor.process.wait(60) == 1
        assert "Traceback" not in doctor.text
        findings, _ = json.JSONDecoder().raw_decode(doctor.text[doctor.text.index("[") :])
        address = next(finding for finding in findings if finding["name"] == "gateway address")
        assert address["ok"] and "a gateway serves at" in address["message"], "the house is up"
        wrong = [finding for finding in findings if not finding["ok"]]
        assert any("gone" in finding["name"] + finding["message"] for finding in wrong)
        assert all(finding["mend"] for finding in wrong)


def test_a_gateway_alone_on_an_empty_redis_knows_its_keys_from_the_first_request_on(
    metaspo: Start, config, tmp_path: Path
) -> None:
    """No request of a key of the file is refused before the registry has heard of it, and once all workers are ready
    the ids that they give out are taken back by /v1/feedback."""
    asked = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    url, headers = f"http://{config['listen']}", {"x-api-key": CALLER}
    with EmbeddedRedis.start(tmp_path / "store") as store:
        command = metaspo(
            "--config", written({**config, "redis_url": store.url}, tmp_path), "gateway", "serve", "--workers", "2"
        )
        statuses, ready = set(), 0
        until = time.monotonic() + 60
        while ready < 10 and time.monotonic() < until and command.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):  # nobody listens yet
                statuses.add(
                    httpx.post(f"{url}/v1/chat/completions", json=asked, headers=headers, timeout=30).status_code
                )
                ready = ready + 1 if httpx.get(f"{url}/readyz", timeout=30).status_code == 200 else 0
        assert ready == 10, command.text
        assert statuses == {200}
        for _ in range(10):  # a new connection each time: either worker may answer
            reply = httpx.post(f"{url}/v1/chat/completions", json=asked, headers=headers, timeout=30)
            assert reply.headers["x-metaspo-version"] == "1"
            said = {"exchange": reply.headers["x-metaspo-exchange"], "thumb": "up"}
            assert httpx.post(f"{url}/v1/feedback", json=said, headers=headers, timeout=30).status_code == 202
        assert command.end(signal.SIGTERM) == 0, command.text
