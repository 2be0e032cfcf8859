"""The search file: one YAML that says what to search on, with which models, for how much."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import yaml

from optimizer.errors import SearchFileError
from optimizer.records import Budget, LoopSizes, Method, Models, ModelSpec, SearchSpec
from optimizer.settings import Settings
from optimizer.tasks.folders import TaskSettings, load_task

_UNKNOWN = re.compile(r"unknown field `([^`]+)`(?: - at `\$\.?([^`]*)`)?")
_AT = re.compile(r"(?: - at `\$\.?([^`]*)`)$")


class ModelSettings(msgspec.Struct, forbid_unknown_fields=True):
    """One model as a file names it."""

    model: str
    api_base: str | None = None
    api_key: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    concurrency: int | None = None
    price_in: float | None = None
    price_out: float | None = None
    execution: str = "live"
    timeout: float | None = None
    retries: int | None = None
    revision: str = ""
    extra: dict[str, Any] = {}


class ModelsSettings(msgspec.Struct, forbid_unknown_fields=True):
    """The four roles as a file names them."""

    base: ModelSettings
    optimizer: ModelSettings | None = None
    judge: ModelSettings | None = None
    audit_judge: ModelSettings | None = None


class _BudgetSettings(Budget, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _SizeSettings(LoopSizes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _File(msgspec.Struct, forbid_unknown_fields=True):
    seed: str
    models: ModelsSettings
    tasks: list[TaskSettings]
    incumbent: str | None = None
    budget: _BudgetSettings = _BudgetSettings()
    method: str = "metaspo"
    faithful: bool = False
    random_seed: int = 20261120
    home: str | None = None
    sizes: _SizeSettings = _SizeSettings()
    options: dict[str, Any] = {}


def load_search_file(path: Path, *, env: Mapping[str, str] | None = None) -> SearchSpec:
    """The search that the file describes, its tasks loaded.

    Paths of tasks are taken from the file's folder, else from the working folder. ``env:NAME`` (or
    ``os.environ/NAME``) as a key stands for an environment variable. Raises ``SearchFileError`` or ``DataError``.
    """
    env = os.environ if env is None else env
    settings = Settings.from_env(env)
    told = _read(path)
    if told.method not in get_args(Method):
        raise SearchFileError(f"{path}: method {told.method!r} is not known.{_nearest(told.method, get_args(Method))}")
    if not told.tasks:
        raise SearchFileError(f"{path}: `tasks` is empty. Name at least one task folder.")
    tasks = tuple(load_task(_folder(path, task.path), settings=task) for task in told.tasks)
    names = [task.name for task in tasks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SearchFileError(
            f"{path}: two tasks are called {sorted(twice)[0]!r}. Give each its own name in task.json."
        )
    if not any(task.role == "source" for task in tasks):
        raise SearchFileError(f"{path}: all tasks are unseen. A search learns from at least one task with role source.")
    for name in ("calls", "usd"):
        value = getattr(told.budget, name)
        if value is not None and value <= 0:
            raise SearchFileError(
                f"{path}: budget.{name} is {value}. It must be more than 0; leave it out for no limit."
            )
    sizes = msgspec.convert(msgspec.to_builtins(told.sizes), LoopSizes)
    for name in LoopSizes.__struct_fields__:
        if getattr(sizes, name) < 1:
            raise SearchFileError(f"{path}: sizes.{name} is {getattr(sizes, name)}. It must be at least 1.")
    return SearchSpec(
        seed_prompt=told.seed,
        incumbent=told.incumbent,
        tasks=tasks,
        models=models_from(path, told.models, env, settings),
        method=msgspec.convert(told.method, Method),
        faithful=told.faithful,
        budget=Budget(calls=told.budget.calls, usd=told.budget.usd),
        seed=told.random_seed,
        home=Path(told.home) if told.home else settings.home,
        sizes=sizes,
        holdout="once",
        options=told.options,
    )


def models_from(path: Path, told: ModelsSettings, env: Mapping[str, str], settings: Settings) -> Models:
    """The models that a file names, keys and defaults filled in. Raises ``SearchFileError``."""
    return Models(
        base=model_from(path, "base", told.base, env, settings),
        **{
            role: model_from(path, role, model, env, settings)
            for role in ("optimizer", "judge", "audit_judge")
            if (model := getattr(told, role)) is not None
        },
    )


def _read(path: Path) -> _File:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SearchFileError(f"{path}: byte {error.start + 1} is not UTF-8. Save the file as UTF-8.") from error
    except OSError as error:
        raise SearchFileError(f"{path}: cannot be read ({error.strerror or error}).") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is not valid YAML"
        raise SearchFileError(f"{path}{line}: {problem}.") from error
    if not isinstance(data, dict):
        raise SearchFileError(f"{path}: a search file is a mapping with the keys seed, models and tasks.")
    try:
        return msgspec.convert(data, _File)
    except msgspec.ValidationError as error:
        raise SearchFileError(f"{path}: {_told(str(error))}") from error


def _told(error: str) -> str:
    """msgspec's complaint with our words, the place, and for an unknown key the nearest known one."""
    unknown = _UNKNOWN.search(error)
    if unknown:
        name, place = unknown.group(1), unknown.group(2) or ""
        known = _keys_at(place)
        where = f" under {place}" if place else ""
        return f"the key {name!r}{where} is not known.{_nearest(name, known)}"
    at = _AT.search(error)
    place = at.group(1) if at else ""
    problem = _AT.sub("", error).replace("Object missing required field", "the required key is missing:")
    return f"{place}: {problem}." if place else f"{problem}."


def _keys_at(place: str) -> tuple[str, ...]:
    kinds: dict[str, type[msgspec.Struct]] = {
        "": _File,
        "models": ModelsSettings,
        "budget": _BudgetSettings,
        "sizes": _SizeSettings,
    }
    if place.startswith("tasks["):
        return TaskSettings.__struct_fields__
    return kinds.get(place, ModelSettings).__struct_fields__


def _nearest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Known are: {', '.join(known)}."


def _folder(file: Path, told: str) -> Path:
    beside = file.parent / told
    return beside if beside.is_dir() or not Path(told).is_dir() else Path(told)


def model_from(file: Path, role: str, told: ModelSettings, env: Mapping[str, str], settings: Settings) -> ModelSpec:
    """One model of a file, its key read from the environment where it says so. Raises ``SearchFileError``."""
    key = told.api_key
    for prefix in ("env:", "os.environ/"):
        if key and key.startswith(prefix):
            name = key.removeprefix(prefix)
            key = env.get(name)
            if not key:
                raise SearchFileError(f"{file}: models.{role}.api_key names the variable {name}, which is not set.")
    if key is None and told.model.startswith("openai/") and told.api_base is None:
        key = env.get("OPENAI_API_KEY")
    if told.execution not in ("live", "batch"):
        raise SearchFileError(f"{file}: models.{role}.execution is {told.execution!r}. It must be live or batch.")
    for name, value in (("concurrency", told.concurrency), ("timeout", told.timeout), ("max_tokens", told.max_tokens)):
        if value is not None and value <= 0:
            raise SearchFileError(f"{file}: models.{role}.{name} is {value}. It must be more than 0.")
    return ModelSpec(
        model=told.model,
        api_base=told.api_base,
        api_key=key,
        temperature=told.temperature,
        max_tokens=told.max_tokens,
        concurrency=told.concurrency or settings.concurrency,
        price_in=told.price_in,
        price_out=told.price_out,
        execution="batch" if told.execution == "batch" else "live",
        timeout=told.timeout or settings.timeout,
        retries=settings.retries if told.retries is None else told.retries,
        revision=told.revision,
        extra=told.extra,
    )
