"""Where settings come from: the YAML file, ``.env`` beside it, the environment; and what is said when they are wrong.

Precedence: environment, then ``.env``, then file, then default. Every setting has an environment variable: ``METASPO_``
and its path in capitals, joined by ``_`` (``gateway.workers``: ``METASPO_GATEWAY_WORKERS``); lists and maps take YAML
(``METASPO_DOMAINS='{support: {inject: append}}'``; maps are merged key by key, lists replaced).
"""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from dotenv import dotenv_values
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from registry.errors import SettingsError
from registry.litellm_config import is_litellm_config, translate_litellm_config
from registry.settings import Settings

_SECRET_FIELDS = {"api_key", "key", "webhook_secret", "redis_url", "redis_url_data_plane"}


@dataclass(frozen=True)
class SettingRow:
    """One setting, for the reference table: dotted path, environment variable, type, default, meaning."""

    path: str
    env: str
    type: str
    default: str
    meaning: str


def read_settings(path: Path | None, env: Mapping[str, str] | None = None, *, require_secrets: bool = True) -> Settings:
    """The settings of one file (or of none: environment and defaults alone).

    ``require_secrets=False`` leaves a secret empty whose variable is not set, for commands that call no provider.
    Raises SettingsError with one sentence.
    """
    outer = dict(os.environ if env is None else env)
    raw: dict[str, Any] = {}
    where = "the environment"
    base = Path()
    if path is not None:
        where, base = path.name, path.parent
        raw = _read_yaml(path)
        outer = {**{k: v for k, v in dotenv_values(base / ".env").items() if v is not None}, **outer}
    notes: tuple[str, ...] = ()
    if is_litellm_config(raw):
        raw, notes, variables = translate_litellm_config(raw, where)
        outer = {**variables, **outer}
    if isinstance(raw.get("home"), str) and path is not None:
        raw["home"] = str(base / Path(raw["home"]).expanduser())
    if isinstance(raw.get("signing_key"), str) and path is not None:
        raw["signing_key"] = str(base / Path(raw["signing_key"]).expanduser())
    raw = _overlay(raw, outer)
    raw = _resolve_secrets(raw, outer, where, require_secrets)
    try:
        settings = Settings.model_validate({**raw, "notes": notes} if notes else raw)
    except ValidationError as error:
        raise SettingsError(f"{where}: {sentence(error)}") from error
    return settings


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingsError(f"There is no config file {path}: name another with --config.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The config file {path} cannot be read: {error}.") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise SettingsError(
            f"{path.name}{place}: this is not YAML: {getattr(error, 'problem', None) or error}."
        ) from error
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise SettingsError(f"{path.name}: the file must hold settings by name, like `listen: 127.0.0.1:8080`.")
    if "notes" in raw:
        raise SettingsError(f"{path.name}: 'notes' is not a known setting; did you mean 'models'?")
    return raw


# --- environment -----------------------------------------------------------------------------------------------------


def _fields(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every setting reachable by names alone (sections are entered, lists and maps are leaves)."""
    for name, info in model.model_fields.items():
        if info.exclude:
            continue
        here = (*path, info.alias or name)
        section = _section_of(info.annotation)
        if section is not None:
            yield from _fields(section, here)
        else:
            yield here, info


def _section_of(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _variable(path: tuple[str, ...]) -> str:
    return "METASPO_" + "_".join(path).upper()


def _overlay(raw: dict[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    for path, info in _fields(Settings):
        text = env.get(_variable(path))
        if text is None:
            continue
        value: Any = text
        if get_origin(info.annotation) in (list, dict, tuple):
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise SettingsError(f"{_variable(path)} must hold YAML, and this is none: {text[:60]!r}.") from error
        elif text == "" and type(None) in get_args(info.annotation):
            value = None
        raw = _put(raw, path, value)
    return raw


def _put(tree: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    head, rest = path[0], path[1:]
    below = tree.get(head)
    if rest:
        return {**tree, head: _put(below if isinstance(below, dict) else {}, rest, value)}
    if isinstance(value, dict) and isinstance(below, dict):
        return {**tree, head: merge(below, value)}
    return {**tree, head: value}


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, maps key by key."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


# --- secrets ---------------------------------------------------------------------------------------------------------


def _resolve_secrets(raw: dict[str, Any], env: Mapping[str, str], where: str, required: bool) -> dict[str, Any]:
    def resolve(value: Any, path: str, field: str) -> Any:
        if isinstance(value, dict):
            inside = field in ("headers", "params")
            return {
                k: resolve(v, f"{path}.{k}" if path else str(k), field if inside else str(k)) for k, v in value.items()
            }
        if isinstance(value, list):
            return [resolve(item, f"{path}[{i}]", field) for i, item in enumerate(value)]
        if not isinstance(value, str) or field not in _SECRET_FIELDS | {"headers", "params"}:
            return value
        for mark in ("env:", "os.environ/"):
            if value.startswith(mark):
                name = value.removeprefix(mark).strip()
                if name in env:
                    return env[name]
                if required:
                    raise SettingsError(
                        f"{where}: {path} names the environment variable {name}, which is not set:"
                        " set it, or put it into .env beside the config file."
                    )
                return ""
        return value

    return typing.cast("dict[str, Any]", resolve(raw, "", ""))


# --- what is said ----------------------------------------------------------------------------------------------------


def sentence(error: ValidationError, top: type[BaseModel] = Settings) -> str:
    """The first problem in one sentence; ``top`` is the model that was validated."""
    problems = error.errors()
    # An unknown key explains the "missing" that often follows it, so it is told first.
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    place = _place(first["loc"])
    more = f" ({len(problems) - 1} more like this)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        near = _nearest(first["loc"], top)
        hint = f"; did you mean {near!r}?" if near else "."
        return f"{place!r} is not a known setting{hint}{more}"
    if first["type"] == "missing":
        return f"{place!r} is missing.{more}"
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    if first["type"] == "value_error":
        return f"{place}: {message}.{more}" if place else f"{message}.{more}"
    return f"{place}: {_lower(message)}, not {_shown(first)}.{more}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


def _shown(problem: ErrorDetails) -> str:
    if problem["loc"] and problem["loc"][-1] in _SECRET_FIELDS:
        return "what stands there"
    text = repr(problem["input"])
    return text if len(text) <= 60 else text[:57] + "..."


def _place(loc: tuple[int | str, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _nearest(loc: tuple[int | str, ...], top: type[BaseModel]) -> str | None:
    """The known key nearest to the unknown one at ``loc``; else a key of that name elsewhere in the file."""
    model: type[BaseModel] | None = top
    for part in loc[:-1]:
        if model is None or isinstance(part, int) or part not in _names(model):
            continue  # an index of a list or a name in a map: the model below stays the same
        model = _model_inside(_names(model)[part].annotation)
    wrong = str(loc[-1])
    known = sorted(_names(model)) if model else []
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.75)
    elsewhere = [".".join(path) for path, _ in _everywhere(top) if path[-1] == wrong]
    far = difflib.get_close_matches(wrong, known, n=1, cutoff=0.4)
    return next(iter([*near, *elsewhere, *far]), None)


def _names(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in model.model_fields.items() if not info.exclude}


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    if (section := _section_of(annotation)) is not None:
        return section
    for argument in get_args(annotation):
        if (section := _model_inside(argument)) is not None:
            return section
    return None


def _everywhere(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    for name, info in _names(model).items():
        here = (*path, name)
        yield here, info
        inside = _model_inside(info.annotation)
        if inside is not None:
            mark = (
                "[]"
                if get_origin(info.annotation) is list
                else ".<name>"
                if get_origin(info.annotation) is dict
                else ""
            )
            yield from _everywhere(inside, (*path, name + mark))


def settings_reference() -> list[SettingRow]:
    """Every setting of the file, in the order of the file, for the documentation."""
    rows = []
    direct = {path for path, _ in _fields(Settings)}
    for path, info in _everywhere(Settings):
        if _section_of(info.annotation) is not None:
            continue
        parent = next((path[:i] for i in range(len(path), 0, -1) if _strip(path[:i]) in direct), path)
        default = "required" if info.is_required() else _default(info.default)
        rows.append(
            SettingRow(
                ".".join(path), _variable(_strip(parent)), _type_name(info.annotation), default, info.description or ""
            )
        )
    return rows


def _strip(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.removesuffix("[]").removesuffix(".<name>") for part in path)


def _default(value: Any) -> str:
    if value is None or value in ("", [], {}, ()):
        return "-"
    if isinstance(value, BaseModel):
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is typing.Literal:
        return " \\| ".join(str(choice) for choice in get_args(annotation))
    if origin is typing.Annotated:
        return _type_name(get_args(annotation)[0])
    if origin is not None:
        inner = [argument for argument in get_args(annotation) if argument is not type(None)]
        if origin in (list, tuple):
            return f"list of {_type_name(inner[0])}"
        if origin is dict:
            return f"map to {_type_name(inner[1])}"
        return " or ".join(_type_name(argument) for argument in inner)
    names = {str: "text", int: "whole number", float: "number", bool: "true/false", Path: "path"}
    return names.get(annotation, "any" if annotation is Any else "section")
