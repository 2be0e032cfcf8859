"""A LiteLLM proxy's ``config.yaml``, as it is: the same clients with the same keys, through a running gateway."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from house import ROOT, ask, free_port, running, until

sys.path.insert(0, str(ROOT / "tests" / "examples"))
from provider import WORDS, provider

from registry import EmbeddedRedis

CONFIG = """
model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: UPSTREAM/v1
      api_key: os.environ/OPENAI_API_KEY
      rpm: 480
  - model_name: claude-sonnet
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      api_base: UPSTREAM
      api_key: os.environ/ANTHROPIC_API_KEY
  - model_name: fast
    litellm_params: {model: hosted_vllm/qwen, api_base: UPSTREAM/v1}
    model_info: {input_cost_per_token: 0.0000001}
router_settings:
  routing_strategy: simple-shuffle
  num_retries: 2
litellm_settings:
  drop_params: true
  fallbacks: [{fast: [gpt-4o-mini]}]
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""
MASTER = "sk-litellm-master"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    home = tmp_path_factory.mktemp("litellm")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with provider() as (upstream, _), EmbeddedRedis.start(home) as redis:
        (home / "config.yaml").write_text(CONFIG.replace("UPSTREAM", upstream))
        environment = {
            "METASPO_HOME": str(home),
            "METASPO_LISTEN": f"127.0.0.1:{port}",
            "METASPO_REDIS_URL": redis.url,
            "OPENAI_API_KEY": "sk-openai",
            "ANTHROPIC_API_KEY": "sk-anthropic",
            "LITELLM_MASTER_KEY": MASTER,
        }
        serve = ["--config", str(home / "config.yaml"), "gateway", "serve"]
        with running([(serve, environment)], home / "log"):
            until("the gateway is ready", lambda: ask(f"{url}/readyz", MASTER)[0] == 200)
            yield url, home / "log"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
@pytest.mark.parametrize("model", ["gpt-4o-mini", "fast"])
def test_clients_call_as_before(gateway: tuple[str, Path], path: str, model: str) -> None:
    status, _, answer = ask(gateway[0] + path, MASTER, {"model": model, **HELLO})
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"] == "".join(WORDS)


def test_the_anthropic_dialect_too(gateway: tuple[str, Path]) -> None:
    status, _, answer = ask(f"{gateway[0]}/v1/messages", MASTER, {"model": "claude-sonnet", "max_tokens": 50, **HELLO})
    assert status == 200, answer
    assert answer["content"][0]["text"] == "".join(WORDS)


def test_the_models_are_listed_and_others_are_not_there(gateway: tuple[str, Path]) -> None:
    listed = ask(f"{gateway[0]}/v1/models", MASTER)[2]
    assert {model["id"] for model in listed["data"]} == {"gpt-4o-mini", "claude-sonnet", "fast"}
    assert ask(f"{gateway[0]}/v1/chat/completions", MASTER, {"model": "gpt-9", **HELLO})[0] == 404
    assert ask(f"{gateway[0]}/v1/chat/completions", "sk-another", {"model": "fast", **HELLO})[0] == 401


def test_the_master_key_is_the_operators_too(gateway: tuple[str, Path]) -> None:
    assert ask(f"{gateway[0]}/api/domains", MASTER)[0] == 200


def test_what_has_no_meaning_here_is_said_at_the_start(gateway: tuple[str, Path]) -> None:
    said = gateway[1].read_text()
    for left_out in ("router_settings.routing_strategy", "router_settings.num_retries", "litellm_settings.drop_params"):
        assert f"{left_out} has no meaning here" in said
    assert MASTER not in said
