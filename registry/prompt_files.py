"""Versions as files: YAML that is pleasant in git, and prompts exported by other tools.

Our own form, one file per domain::

    domain: support
    stable: 2
    versions:
      - version: 1
        hash: sha256:...
        author: anna
        why: first version
        system_prompt: |
          You are a helpful assistant.

A person may write such a file by hand with nothing but ``domain`` and a list of ``system_prompt``. Foreign forms that
are read: the JSON array of Langfuse's prompt export (also a single object of its public API), and MLflow's model
versions as its registry's REST API gives them (MLflow has no export file; the text is in the tag
``mlflow.prompt.text``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import yaml

from registry.errors import Refused
from registry.records import Deployment, Lineage, Version
from registry.versions import check_prompt

_CHAT_ROLES = ("system", "developer")


class ImportedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt out of a file: where it wants to go, its text, where it comes from, whether it served there, and why it
    may not serve any more.
    """

    domain: str | None
    system_prompt: str
    lineage: Lineage
    stable: bool = False
    blocked: str = ""


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that a diff shows the changed line."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    block = "\n" in value and not any(line != line.rstrip() for line in value.splitlines())
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if block else None)


_Dumper.add_representer(str, _text)


def export_yaml(domain: str, versions: Sequence[Version], deployment: Deployment) -> str:
    """All versions of a domain as one YAML file."""
    document: dict[str, Any] = {"domain": domain}
    for pointer in ("stable", "canary", "previous"):
        if (number := getattr(deployment, pointer)) is not None:
            document[pointer] = number
    document["versions"] = [_exported(version) for version in versions]
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _exported(version: Version) -> dict[str, Any]:
    lineage = version.lineage
    about: dict[str, Any] = {"version": version.number, "hash": version.hash, "author": lineage.author}
    about |= {
        name: value
        for name, value in (
            ("why", lineage.why),
            ("parent", lineage.parent),
            ("run", lineage.run),
            ("datasets", list(lineage.datasets)),
            ("gate", lineage.gate),
            ("blocked", version.blocked),
        )
        if value
    }
    return {**about, "system_prompt": version.system_prompt}


def read_prompts(text: str, name: str) -> list[ImportedPrompt]:
    """Whatever form the file has, oldest version first. ``name`` is the file's, for errors. Raises Refused."""
    try:
        document = json.loads(text) if text.lstrip().startswith(("{", "[")) else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise Refused(f"{name} is neither YAML nor JSON: {str(error).splitlines()[0]}.") from error
    if isinstance(document, dict) and ("versions" in document or "system_prompt" in document):
        prompts = _ours(document, name)
    elif mlflow := _mlflow_versions(document):
        prompts = [_mlflow(version, name) for version in mlflow]
    elif langfuse := _langfuse_prompts(document):
        prompts = [_langfuse(prompt, name) for prompt in langfuse]
    else:
        raise Refused(
            f"{name} holds no prompts that can be read: neither our YAML (`domain`, `versions`), nor Langfuse's export,"
            " nor MLflow's model versions."
        )
    for prompt in prompts:
        try:
            check_prompt(prompt.system_prompt)
        except Refused as error:
            raise Refused(f"{name}: {error}") from error
    return prompts


def _ours(document: dict[str, Any], name: str) -> list[ImportedPrompt]:
    versions = document.get("versions", [document])
    if not isinstance(versions, list):
        raise Refused(f"{name}: `versions` must be a list.")
    domain, stable = document.get("domain"), document.get("stable")
    prompts = []
    for position, entry in enumerate(versions):
        if not isinstance(entry, dict) or not isinstance(entry.get("system_prompt"), str):
            raise Refused(f"{name}: versions[{position}] needs a text under `system_prompt`.")
        about = {
            "author": str(entry.get("author") or f"import of {name}"),
            "why": str(entry.get("why") or f"imported from {name}"),
            # Its parent is left out: the numbers of the file are not the numbers here.
            **{field: entry[field] for field in ("run", "datasets", "gate") if entry.get(field) is not None},
        }
        try:
            lineage = msgspec.convert(about, Lineage)
        except msgspec.ValidationError as error:
            raise Refused(f"{name}: versions[{position}]: {_small(str(error))}.") from error
        prompts.append(
            ImportedPrompt(
                domain=str(domain) if domain is not None else None,
                system_prompt=entry["system_prompt"],
                lineage=lineage,
                # A file with one text and nothing else means that text.
                stable=entry is document or (stable is not None and entry.get("version") == stable),
                blocked=str(entry.get("blocked") or ""),
            )
        )
    return prompts


def _small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def _langfuse_prompts(document: Any) -> list[dict[str, Any]]:
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        document = document["data"]
    entries = document if isinstance(document, list) else [document]
    found = [entry for entry in entries if isinstance(entry, dict) and "prompt" in entry and "name" in entry]
    if len(found) != len(entries):
        return []
    return sorted(found, key=lambda entry: (str(entry["name"]), _whole(entry.get("version"))))


def _langfuse(entry: dict[str, Any], name: str) -> ImportedPrompt:
    about = f"Langfuse prompt {entry['name']} version {entry.get('version', '?')}"
    labels = entry.get("labels") or []
    message = entry.get("commitMessage")
    return ImportedPrompt(
        domain=_domain_like(str(entry["name"])),
        system_prompt=_system_text(entry["prompt"], f"{name}: {about}"),
        lineage=Lineage(author=f"import of {name}", why=about + (f": {message}" if message else "")),
        stable="production" in labels,
    )


def _mlflow_versions(document: Any) -> list[dict[str, Any]]:
    if isinstance(document, dict):
        if isinstance(document.get("model_versions"), list):
            document = document["model_versions"]
        elif isinstance(document.get("model_version"), dict):
            document = [document["model_version"]]
    entries = document if isinstance(document, list) else []
    found = [entry for entry in entries if isinstance(entry, dict) and "mlflow.prompt.text" in _tags(entry)]
    return sorted(found, key=lambda entry: (str(entry.get("name")), _whole(entry.get("version"))))


def _tags(entry: Mapping[str, Any]) -> dict[str, Any]:
    tags = entry.get("tags")
    if isinstance(tags, dict):
        return tags
    return {tag["key"]: tag.get("value") for tag in tags or [] if isinstance(tag, dict) and "key" in tag}


def _mlflow(entry: dict[str, Any], name: str) -> ImportedPrompt:
    tags = _tags(entry)
    about = f"MLflow prompt {entry.get('name', '?')} version {entry.get('version', '?')}"
    template: Any = tags["mlflow.prompt.text"]
    if tags.get("_mlflow_prompt_type") == "chat":
        try:
            template = json.loads(template)
        except (TypeError, ValueError) as error:
            raise Refused(f"{name}: {about} says it is a chat, but its text is not JSON.") from error
    message = entry.get("description") or tags.get("mlflow.prompt.description")
    aliases = [alias.get("alias") if isinstance(alias, dict) else alias for alias in entry.get("aliases") or []]
    return ImportedPrompt(
        domain=_domain_like(str(entry.get("name", ""))),
        system_prompt=_system_text(template, f"{name}: {about}"),
        lineage=Lineage(author=f"import of {name}", why=about + (f": {message}" if message else "")),
        stable="production" in aliases,
    )


def _system_text(prompt: Any, where: str) -> str:
    """The text itself, or the system messages of a chat. Raises Refused."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list):
        texts = [
            str(message.get("content", ""))
            for message in prompt
            if isinstance(message, dict) and message.get("role") in _CHAT_ROLES
        ]
        if texts:
            return "\n\n".join(texts)
        raise Refused(f"{where} is a chat without a system message: there is no system prompt in it.")
    raise Refused(f"{where} holds neither a text nor a chat.")


def _domain_like(name: str) -> str | None:
    """A domain name made of a foreign prompt's name: ``Support/Triage Bot`` -> ``support-triage-bot``."""
    parts = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in name.lower())
    return parts.strip("-._")[:63] or None


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0
