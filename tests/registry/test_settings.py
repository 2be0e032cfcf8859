"""The config file: what it may hold, where values come from, and what is said when it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from registry import (
    CanaryPlan,
    Domain,
    EmbeddedRedis,
    JudgeSpec,
    Registry,
    Settings,
    SettingsError,
    hash_key,
    load_settings,
    settings_reference,
)
from registry.signing import Signer, load_public
from tests.registry.conftest import Connect

FULL = """
home: ./.metaspo
redis_url: redis://host:6379/0
listen: 127.0.0.1:8080
upstreams:
  - {name: openai, dialect: openai, base_url: https://api.openai.com/v1/, api_key: env:OPENAI_API_KEY}
  - {name: claude, dialect: anthropic, api_key: os.environ/ANTHROPIC_API_KEY}
  - {name: bedrock, dialect: litellm}
models:
  - {name: gpt-4o-mini, upstream: openai, model: gpt-4o-mini-2024-07-18, fallbacks: [claude-haiku]}
keys:
  - {name: support-app, role: caller, key: env:SUPPORT_KEY, domain: support}
  - {name: ops, role: operator, key: env:OPS_KEY}
domains:
  support:
    system_prompt: You are a helpful assistant.
    inject: prepend
    sample: {share: 0.05, per_hour: 500}
    base_model: gpt-4o-mini
    schedule: "0 3 * * 0"
    canary: {stages: [0.01, 0.05, 0.2, 0.5], dwell_hours: [1, 6, 24, 48], n_final: 4400, margin: 0.03}
    budget: {calls: 6000, usd: 10}
    promotion: manual
    tasks:
      triage: {user_prompt: "Which team?\\n{question}", judge: {kind: choice, labels: [billing, shipping]}}
"""
SECRETS = {"OPENAI_API_KEY": "sk-1", "ANTHROPIC_API_KEY": "sk-2", "SUPPORT_KEY": "s", "OPS_KEY": "o"}


def load(tmp_path: Path, text: str, env: dict[str, str] | None = None, **more: Any) -> Settings:
    path = tmp_path / "metaspo.yaml"
    path.write_text(text)
    return load_settings(path, {} if env is None else env, **more)


def test_the_whole_file_of_the_contract(tmp_path: Path) -> None:
    settings = load(tmp_path, FULL, SECRETS)
    assert settings.home == tmp_path / ".metaspo"
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert [up.api_key for up in settings.upstreams] == ["sk-1", "sk-2", None]
    assert settings.upstreams[0].base_url == "https://api.openai.com/v1"
    assert settings.upstreams[1].base_url == "https://api.anthropic.com"
    assert settings.models[0].fallbacks == ["claude-haiku"]
    assert [key.key for key in settings.keys] == ["s", "o"]
    [domain] = settings.domain_records()
    assert domain.read_only and domain.name == "support" and domain.schedule == "0 3 * * 0"
    assert domain.canary == CanaryPlan() and domain.budget.usd == 10
    assert domain.tasks["triage"].judge == JudgeSpec(kind="choice", labels=("billing", "shipping"))
    for secret in ("sk-1", "sk-2"):
        assert secret not in repr(settings)


def test_nothing_at_all_is_a_working_configuration(tmp_path: Path) -> None:
    assert load_settings(None, {}) == Settings()
    assert load(tmp_path, "") == Settings()


def test_secrets_come_from_dotenv_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SUPPORT_KEY=from-file\nMETASPO_LISTEN=127.0.0.1:1\n")
    text = "keys: [{name: a, key: env:SUPPORT_KEY}]"
    assert load(tmp_path, text).keys[0].key == "from-file"
    assert load(tmp_path, text).port == 1
    assert load(tmp_path, text, {"SUPPORT_KEY": "outer"}).keys[0].key == "outer"


def test_a_missing_secret_is_named_unless_it_is_not_needed(tmp_path: Path) -> None:
    text = "upstreams: [{name: a, api_key: env:NOPE}]"
    with pytest.raises(
        SettingsError, match=r"upstreams\[0\]\.api_key names the environment variable NOPE, which is not set"
    ):
        load(tmp_path, text)
    assert load(tmp_path, text, require_secrets=False).upstreams[0].api_key == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("upstreem: 1", "'upstreem' is not a known setting; did you mean 'upstreams'?"),
        ("gateway: {worker: 2}", "'gateway.worker' is not a known setting; did you mean 'workers'?"),
        ("workers: 2", "did you mean 'gateway.workers'?"),
        (
            "domains: {support: {samples: {}}}",
            "'domains.support.samples' is not a known setting; did you mean 'sample'?",
        ),
        ("domains: {s: {sample: {shar: 1}}}", "did you mean 'share'?"),
        ("domains: {s: {tasks: {t: {judge: {label: []}}}}}", "did you mean 'labels'?"),
        ("upstreams: [{nam: a}]", "did you mean 'name'?"),
        ("gateway: {workers: x}", "gateway.workers: input should be a valid integer"),
        ("gateway: {workers: 0}", "greater than or equal to 1, not 0"),
        ("domains: {s: {sample: {share: 1.5}}}", "domains.s.sample.share: input should be less than or equal to 1"),
        ("domains: {s: {promotion: soon}}", "'manual', 'canary' or 'auto', not 'soon'"),
        ("domains: {Bad Name: {}}", "cannot name a domain"),
        ("domains: {s: {schedule: daily}}", "five fields"),
        ("domains: {s: {schedule: '61 3 * * 0'}}", "'61' is no minute, which is a number from 0 to 59"),
        ("domains: {s: {schedule: '0 3 * * funday'}}", "'funday' is no day of the week"),
        ("domains: {s: {schedule: '0 3-x * * 0'}}", "'3-x' is no hour"),
        ("redis_url: http://localhost:6379", "is not an address of Redis, like redis://host:6379/0"),
        ("domains: {s: {canary: {stages: [0.1]}}}", "differ in length"),
        ("domains: {s: {canary: {stages: [0.2, 0.1], dwell_hours: [1, 1]}}}", "stages must grow"),
        ("domains: {s: {tasks: {t: {user_prompt: none}}}}", "exactly once, not 0 times"),
        ("domains: {s: {tasks: {t: {judge: {kind: choice}}}}}", "needs at least two labels"),
        ("domains: {s: {tasks: {t: {judge: {kind: rubric}}}}}", "needs a rubric"),
        ("domains: {s: {match: [{task: t}]}}", "a match rule needs"),
        ("listen: 8080", "input should be a valid string, not 8080"),
        ("listen: localhost", "is not HOST:PORT"),
        ("models: [{name: a, upstream: b}]", "names the upstream 'b'; known upstreams: none"),
        ("models: [{name: 'a*b', upstream: b}]", "one '*', at its end"),
        ("upstreams: [{name: a}, {name: a}]", "two upstreams are named 'a'"),
        ("keys: [{name: a, key: x}, {name: a, key: y}]", "two keys are named 'a'"),
        ("upstreams: [{name: a, base_url: localhost}]", "is not an http:// or https:// address"),
        ("upstreams: [{dialect: openai}]", "'upstreams[0].name' is missing"),
        ("- a", "must hold settings by name"),
        ("a: [", "line 1: this is not YAML"),
        ("1: 2", "must hold settings by name"),
        ("notes: x", "'notes' is not a known setting"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert says in str(caught.value)
    assert "metaspo.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_secret_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, "keys: [{name: a, key: [hunter2]}]")
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_sentences(tmp_path: Path) -> None:
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(SettingsError, match=r"no config file|cannot be read"):
            load_settings(path, {})


@hypothesis.settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["home", "domains", "keys", "upstreams", "gateway", "support", "name", "key", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_file_loads_or_is_refused(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(yaml.safe_dump(tree))
    try:
        load_settings(path, {})
    except SettingsError as error:
        assert "\n" not in str(error)


# --- environment -----------------------------------------------------------------------------------------------------


def test_every_setting_has_an_environment_variable(tmp_path: Path) -> None:
    rows = settings_reference()
    assert all(row.env.startswith("METASPO_") and row.meaning for row in rows), [r for r in rows if not r.meaning]
    variables = {row.env for row in rows if "[]" not in row.path and ".<name>" not in row.path}
    assert len(variables) == len([row for row in rows if "[]" not in row.path and ".<name>" not in row.path])
    env = {
        "METASPO_HOME": str(tmp_path / "h"),
        "METASPO_GATEWAY_WORKERS": "3",
        "METASPO_JOBS_CONCURRENCY": "7",
        "METASPO_RETENTION_SAMPLE_DAYS": "5",
        "METASPO_REDIS_URL": "redis://elsewhere",
        "METASPO_DOMAINS": "{support: {inject: append}, billing: {}}",
        "METASPO_UPSTREAMS": "[{name: only, base_url: 'http://127.0.0.1:1'}]",
        "METASPO_GATEWAY_CONSOLE": "false",
        "METASPO_MODELS": "[]",
    }
    settings = load(tmp_path, FULL, {**SECRETS, **env})
    assert (settings.gateway.workers, settings.jobs.concurrency, settings.retention.sample_days) == (3, 7, 5)
    assert settings.home == tmp_path / "h" and settings.redis_url == "redis://elsewhere"
    assert settings.domains["support"].inject == "append"
    assert settings.domains["support"].system_prompt == "You are a helpful assistant."
    assert set(settings.domains) == {"support", "billing"}
    assert [up.name for up in settings.upstreams] == ["only"] and not settings.gateway.console
    assert load(tmp_path, FULL, {**SECRETS, "METASPO_REDIS_URL": ""}).redis_url is None
    with pytest.raises(SettingsError, match="METASPO_DOMAINS must hold YAML"):
        load_settings(None, {"METASPO_DOMAINS": "{"})


# --- LiteLLM ---------------------------------------------------------------------------------------------------------

LITELLM = """
model_list:
  - model_name: gpt-4o-mini
    litellm_params: {model: openai/gpt-4o-mini, api_key: os.environ/OPENAI_API_KEY, rpm: 6}
    model_info: {input_cost_per_token: 0.00000015}
  - model_name: gpt-4o-mini
    litellm_params: {model: azure/mini, api_base: https://x.azure.com, api_key: os.environ/AZURE, api_version: v1}
  - model_name: local
    litellm_params: {model: hosted_vllm/qwen, api_base: "http://127.0.0.1:8000/v1", weight: 2}
  - model_name: claude
    litellm_params: {model: anthropic/claude-sonnet-4-5, api_key: os.environ/ANTHROPIC_API_KEY}
  - model_name: "bedrock/*"
    litellm_params: {model: "bedrock/*", aws_region_name: eu-central-1}
  - model_name: plain
    litellm_params: {model: gpt-4.1}
litellm_settings: {fallbacks: [{gpt-4o-mini: [claude]}], drop_params: true}
general_settings: {master_key: os.environ/MASTER, database_url: x}
environment_variables: {AZURE: a-key}
domains: {support: {}}
"""


def test_a_litellm_config_is_accepted_as_it_is(tmp_path: Path) -> None:
    settings = load(tmp_path, LITELLM, {**SECRETS, "MASTER": "sk-master"})
    routes = {(route.name, route.upstream, route.model) for route in settings.models}
    assert routes == {
        ("gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("gpt-4o-mini", "azure", "azure/mini"),
        ("local", "openai-2", "qwen"),
        ("claude", "anthropic", "claude-sonnet-4-5"),
        ("bedrock/*", "bedrock", None),
        ("plain", "openai", "gpt-4.1"),
    }
    upstreams = {up.name: up for up in settings.upstreams}
    assert upstreams["openai"].api_key == "sk-1" and upstreams["azure"].api_key == "a-key"
    assert (upstreams["azure"].dialect, upstreams["openai-2"].base_url) == ("litellm", "http://127.0.0.1:8000/v1")
    by_name = {route.name: route for route in settings.models if route.upstream != "azure"}
    assert by_name["gpt-4o-mini"].fallbacks == ["claude"] and by_name["gpt-4o-mini"].price_in == pytest.approx(0.15)
    assert by_name["bedrock/*"].params == {"aws_region_name": "eu-central-1"} and by_name["local"].weight == 2
    (master,) = settings.keys
    assert (master.name, master.role, master.key, master.both_planes) == ("master", "operator", "sk-master", True)
    assert "support" in settings.domains
    assert "litellm_settings.drop_params has no meaning here" in settings.notes
    assert "general_settings.database_url has no meaning here" in settings.notes
    open_house = load(tmp_path, LITELLM.replace("master_key: os.environ/MASTER, ", ""), SECRETS)
    assert any("master_key is missing" in note for note in open_house.notes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model_list: {}", "must be a list"),
        ("model_list: [{model_name: a}]", "model_list[0] needs a model_name and litellm_params"),
        ("model_list: []\nmodels: []", "both model_list and models"),
        ("model_list: []\nroute_settings: {}", "'route_settings' is not a known setting"),
    ],
)
def test_a_broken_litellm_config_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert says in str(caught.value)


# --- the file wins ---------------------------------------------------------------------------------------------------


async def test_the_file_wins_at_every_start(registry: Registry) -> None:
    settings = Settings.model_validate(
        {
            "domains": {
                "child": {"parent": "support"},
                "support": {"system_prompt": "Be brief.", "locked": "Never lie."},
                "global": {"system_prompt": "Be good."},
            },
            "keys": [
                {"name": "app", "key": "secret-1", "domain": "support"},
                {"name": "ops", "role": "operator", "key": "s2"},
            ],
        }
    )
    await registry.sync_settings(settings)
    before = await registry.snapshot()
    await registry.sync_settings(settings)
    assert (await registry.snapshot()).epoch == before.epoch
    assert {name: view.deployment.stable for name, view in before.domains.items()} == {
        "child": None,
        "support": 1,
        "global": 1,
    }
    assert before.domains["global"].domain.parent is None
    assert before.keys[hash_key("secret-1")].domain == "support" and before.keys[hash_key("secret-1")].from_file
    # Edited elsewhere, the file wins; what it no longer names becomes free, its keys stop.
    await registry.put_domain(Domain(name="support", parent=None, inject="off"), actor="eve")
    await registry.sync_settings(
        Settings.model_validate(
            {
                "domains": {"support": {"system_prompt": "Other."}},
                "keys": [{"name": "ops", "role": "operator", "key": "s2"}],
            }
        )
    )
    after = await registry.snapshot()
    assert after.domains["support"].domain.inject == "prepend" and after.domains["support"].domain.read_only
    assert not after.domains["child"].domain.read_only
    assert set(after.keys) == {hash_key("s2")}
    assert len(await registry.list_versions("support")) == 1  # version 1 is only for a domain without versions


async def test_keys_whose_secret_is_not_known_here_are_left_alone(plain: Registry) -> None:
    await plain.sync_settings(Settings.model_validate({"keys": [{"name": "app", "key": "secret-1"}]}))
    await plain.sync_settings(Settings.model_validate({"keys": [{"name": "app", "key": ""}]}))
    assert set((await plain.snapshot()).keys) == {hash_key("secret-1")}
    # One secret is known in this shell, the other is not, a third key is out of the file.
    names = ("app", "ops", "old")
    await plain.sync_settings(Settings.model_validate({"keys": [{"name": n, "key": f"secret-{n}"} for n in names]}))
    few = [{"name": "app", "key": ""}, {"name": "ops", "key": "secret-ops"}]
    await plain.sync_settings(Settings.model_validate({"keys": few}))
    assert set((await plain.snapshot()).keys) == {hash_key("secret-app"), hash_key("secret-ops")}


# --- the signing key -------------------------------------------------------------------------------------------------


def test_the_signing_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "signing.key"
    first, second = Signer.load_or_create(path), Signer.load_or_create(path)
    assert first.public == second.public
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_public(str(path.with_suffix(".pub"))) == first.public
    assert load_public(path.with_suffix(".pub").read_text()) == first.public
    assert sorted(p.name for p in path.parent.iterdir()) == ["signing.key", "signing.pub"]
    path.write_text("soup")
    with pytest.raises(SettingsError, match="cannot be read"):
        Signer.load(path)
    for text in ("short", "A" * 44, str(tmp_path / "no.pub")):
        with pytest.raises(SettingsError):
            load_public(text)


async def test_a_registry_opens_as_the_settings_say(embedded: EmbeddedRedis, prefix: str, connect: Connect) -> None:
    settings = Settings.model_validate({"redis_prefix": prefix, "retention": {"sample_days": 3}})
    registry = await Registry.from_settings(settings, embedded.url)
    try:
        assert registry.connection.keys.prefix == prefix and await registry.ping()
    finally:
        await registry.close()
