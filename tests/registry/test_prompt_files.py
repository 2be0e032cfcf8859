"""Versions as files: our YAML goes out and comes back; Langfuse's and MLflow's forms are read."""

from __future__ import annotations

import json

import pytest
import yaml

from registry import Deployment, Lineage, Refused, Version, content_hash
from registry.prompt_files import export_yaml, read_prompts

TEXTS = (
    "You are brief.\nYou are kind.",
    "One line: with a colon",
    "Trailing space \nand # hash",
    "Grüße\n\n{question}",
)


def version(number: int, text: str) -> Version:
    lineage = Lineage(author="anna", why="because", parent=1, run="r", datasets=("sha256:d",), gate={"outcome": "PASS"})
    return Version(
        domain="support", number=number, system_prompt=text, hash=content_hash(text), created_at=1.0, lineage=lineage
    )


def test_our_yaml_goes_out_and_comes_back() -> None:
    versions = [version(i + 1, text) for i, text in enumerate(TEXTS)]
    text = export_yaml("support", versions, Deployment(domain="support", stable=2, canary=3, share=0.1))
    assert "system_prompt: |-\n    You are brief.\n    You are kind.\n" in text
    document = yaml.safe_load(text)
    assert (document["domain"], document["stable"], document["canary"]) == ("support", 2, 3)
    prompts = read_prompts(text, "support.yaml")
    assert [prompt.system_prompt for prompt in prompts] == list(TEXTS)
    assert [prompt.stable for prompt in prompts] == [False, True, False, False]
    assert {prompt.domain for prompt in prompts} == {"support"}
    assert prompts[0].lineage == Lineage(
        author="anna", why="because", run="r", datasets=("sha256:d",), gate={"outcome": "PASS"}
    )


def test_a_file_written_by_hand_is_enough() -> None:
    [prompt] = read_prompts("domain: support\nsystem_prompt: Be brief.\n", "hand.yaml")
    assert (prompt.domain, prompt.system_prompt, prompt.stable) == ("support", "Be brief.", True)
    assert prompt.lineage == Lineage(author="import of hand.yaml", why="imported from hand.yaml")


def test_langfuse_exports_are_read_oldest_first() -> None:
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "{{q}}"}]
    named: dict[str, object] = {"name": "Support Bot"}
    export = [
        {**named, "version": 2, "type": "chat", "prompt": chat, "labels": ["production"], "commitMessage": "kinder"},
        {**named, "version": 1, "type": "text", "prompt": "Be brief.", "labels": [], "config": {"model": "x"}},
    ]
    first, second = read_prompts(json.dumps(export), "langfuse.json")
    assert (first.domain, first.system_prompt, first.stable) == ("support-bot", "Be brief.", False)
    assert (second.system_prompt, second.stable) == ("Be kind.", True)
    assert second.lineage.why == "Langfuse prompt Support Bot version 2: kinder"
    assert read_prompts(json.dumps({"data": export}), "page.json") == read_prompts(json.dumps(export), "page.json")
    [single] = read_prompts(json.dumps(export[1]), "one.json")
    assert single.system_prompt == "Be brief."


def test_mlflow_model_versions_are_read() -> None:
    def model_version(number: str, text: str, **more: object) -> dict[str, object]:
        tags = [{"key": "mlflow.prompt.is_prompt", "value": "true"}, {"key": "mlflow.prompt.text", "value": text}]
        return {"name": "triage", "version": number, "tags": tags, **more}

    chat = model_version("2", json.dumps([{"role": "system", "content": "Route it."}]), aliases=["production"])
    chat["tags"].append({"key": "_mlflow_prompt_type", "value": "chat"})  # type: ignore[attr-defined]
    listing = {"model_versions": [chat, model_version("1", "Sort it.", description="first")]}
    first, second = read_prompts(json.dumps(listing), "mlflow.json")
    assert (first.domain, first.system_prompt) == ("triage", "Sort it.")
    assert first.lineage.why == "MLflow prompt triage version 1: first"
    assert (second.system_prompt, second.stable) == ("Route it.", True)
    [one] = read_prompts(json.dumps({"model_version": model_version("7", "Only.")}), "one.json")
    assert one.system_prompt == "Only."


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "neither YAML nor JSON"),
        ("a: [", "neither YAML nor JSON"),
        ("hello: world", "holds no prompts that can be read"),
        ("[]", "holds no prompts that can be read"),
        ("versions: 3", "`versions` must be a list"),
        ("versions: [{why: x}]", r"versions\[0\] needs a text"),
        ("system_prompt: ''", "cannot be empty"),
        ('[{"name": "a", "prompt": [{"role": "user", "content": "x"}]}]', "chat without a system message"),
        ('[{"name": "a", "prompt": 3}]', "neither a text nor a chat"),
    ],
)
def test_other_files_are_refused_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(Refused, match=says) as caught:
        read_prompts(text, "file")
    assert "\n" not in str(caught.value)
