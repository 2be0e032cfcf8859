"""What is run: models, tasks, methods, seeds, sizes. Read from one YAML file; the command line goes before it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from optimizer.errors import SearchFileError
from optimizer.names import nearest
from optimizer.paper.catalogue import PAPER_DOMAINS, PaperTask, catalogue, domain_tasks, pick
from optimizer.paper.methods import DEFAULT_METHODS, FIXED, check_method
from optimizer.paper.user_prompts import OWN
from optimizer.records import LoopSizes, Models, ModelSpec, Record
from optimizer.search_file import ModelSettings, ModelsSettings, model_from, models_from
from optimizer.settings import Settings
from optimizer.steps.plan import DEFAULT_CALLS

GLOBAL = "global"
Scope = Literal["domain", "global"]
EXAMPLE = """\
# The paper's protocol. `metaspo paper estimate` says what it costs, `metaspo paper run` runs it and can be killed and
# started again, `metaspo paper report` makes tables and figures from what there is.
models:
  base: {model: openai/my-small-model, api_base: http://127.0.0.1:8091/v1, max_tokens: 256}
  optimizer: {model: openai/gpt-4o-mini}
# data: path/to/folders            # rows of your own; without it the public originals are fetched (extra: datasets)
domains: [medical, reviews, reasoning, safety, grounding]
methods: [default, cot, service, constant, one_shot, sprig, metaspo, gepa, metaspo-faithful]
scopes: [domain]                   # add global: one prompt learned on all domains
seeds: [1, 2]
train_rows: 200                    # rows a search may learn from, per task; the published loop takes sizes.train_size
test_rows: 500
user_prompts: 10                   # per unseen task
user_prompts_by: optimizer         # own: ten plain wordings, no optimizer model needed
ask: all                           # rotate: question i under user prompt i mod 10, a tenth of the calls
budget_calls: 6000                 # of metaspo and sprig; gepa gets the base calls that metaspo asked for
adapt: [default, metaspo]          # test-time adaptation under these methods' prompts; [] leaves it out
# seed_prompt: You are a helpful assistant.   # the start prompt of every search
# fewer: false                     # true: take what there is where a task has fewer rows than asked
# measure_sources: true            # false: the found prompts are measured on unseen tasks alone
# skip: []                         # names of tasks to leave out of their domains
"""


class _Domain(msgspec.Struct, forbid_unknown_fields=True):
    source: list[str]
    unseen: list[str] = []


class _Sizes(LoopSizes, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _PaperFile(msgspec.Struct, forbid_unknown_fields=True):
    models: ModelsSettings
    name: str = ""
    data: str | None = None
    tasks: str | None = None
    domains: list[str] | dict[str, _Domain] = msgspec.field(default_factory=lambda: list(PAPER_DOMAINS))
    skip: list[str] = []
    methods: list[str] = msgspec.field(default_factory=lambda: list(DEFAULT_METHODS))
    scopes: list[Scope] = msgspec.field(default_factory=lambda: ["domain"])
    source_counts: list[int] = []
    adapt: list[str] = []
    other_bases: list[ModelSettings] = []
    seeds: list[int] = msgspec.field(default_factory=lambda: [1, 2])
    seed_prompt: str = "You are a helpful assistant."
    train_rows: int = 200
    test_rows: int = 500
    fewer: bool = False
    user_prompts: int = 10
    user_prompts_by: Literal["own", "optimizer"] = "own"
    ask: Literal["all", "rotate"] = "all"
    measure_sources: bool = True
    budget_calls: int = DEFAULT_CALLS
    sizes: _Sizes = _Sizes()
    home: str = ".metaspo/paper"


class Protocol(Record, frozen=True, kw_only=True):
    """The protocol as it is run. ``domains`` holds the catalogue entries, source tasks first.

    ``home`` keeps journals, finished cells, fetched rows and the raw results.
    """

    models: Models
    domains: dict[str, tuple[PaperTask, ...]]
    name: str = ""
    data: Path | None = None
    methods: tuple[str, ...] = DEFAULT_METHODS
    scopes: tuple[Scope, ...] = ("domain",)
    source_counts: tuple[int, ...] = ()
    adapt: tuple[str, ...] = ()
    other_bases: tuple[ModelSpec, ...] = ()
    seeds: tuple[int, ...] = (1, 2)
    seed_prompt: str = "You are a helpful assistant."
    train_rows: int = 200
    test_rows: int = 500
    fewer: bool = False
    user_prompts: int = 10
    user_prompts_by: Literal["own", "optimizer"] = "own"
    ask: Literal["all", "rotate"] = "all"
    measure_sources: bool = True
    budget_calls: int = DEFAULT_CALLS
    sizes: LoopSizes = LoopSizes()
    home: Path = Path(".metaspo/paper")

    @property
    def label(self) -> str:
        """The name with a short hash of every size: what stands in the raw rows, so that results of other sizes are
        never averaged with these. Models, tasks, methods and seeds have columns of their own."""
        sizes = (self.seed_prompt, self.train_rows, self.test_rows, self.user_prompts, self.user_prompts_by, self.ask,
                 self.budget_calls, self.sizes)  # fmt: skip
        return f"{self.name}-{hashlib.sha256(msgspec.json.encode(sizes)).hexdigest()[:6]}"


class Cell(Record, frozen=True, kw_only=True):
    """One method on one domain (or on all, ``global``) with one seed: what is finished or not.

    ``sources`` limits the source tasks learned from (0: all); ``adapted`` is test-time adaptation under the method's
    prompt; ``base`` counts the other base models that the found prompt is measured on (0: the one it was found on).
    """

    domain: str
    method: str
    seed: int
    sources: int = 0
    adapted: bool = False
    base: int = 0

    @property
    def title(self) -> str:
        """The cell in words."""
        parts = [self.domain, self.method, f"seed {self.seed}"]
        parts += [f"{self.sources} source tasks"] if self.sources else []
        parts += ["adapted"] if self.adapted else []
        parts += [f"base model {self.base + 1}"] if self.base else []
        return ", ".join(parts)

    @property
    def found_by(self) -> Cell:
        """The cell whose search finds the prompt of this one."""
        return Cell(domain=self.domain, method=self.method, seed=self.seed, sources=self.sources)


def cells_of(protocol: Protocol) -> list[Cell]:
    """All cells in the order they are run: domain by domain, cheap methods before searches, GEPA after the search
    whose calls it gets; then what builds on them."""
    order = {name: place for place, name in enumerate(DEFAULT_METHODS)}
    methods = sorted(protocol.methods, key=lambda name: order.get(name, len(order)))
    domains = list(protocol.domains) if "domain" in protocol.scopes else []
    plain = [Cell(domain=d, method=m, seed=s) for d in domains for s in protocol.seeds for m in methods]
    if GLOBAL in protocol.scopes:  # a fixed prompt is the same for every scope
        learned = [method for method in methods if method not in FIXED or not domains]
        plain += [Cell(domain=GLOBAL, method=m, seed=s) for s in protocol.seeds for m in learned]
    adapted = [
        Cell(domain=d, method=m, seed=s, adapted=True) for d in domains for s in protocol.seeds for m in protocol.adapt
    ]
    counted = [
        Cell(domain=d, method="metaspo", seed=s, sources=count)
        for d in protocol.domains
        for s in protocol.seeds
        for count in protocol.source_counts
        if count < len(sources_of(protocol, d))
    ]
    elsewhere = [
        msgspec.structs.replace(cell, base=number)
        for number in range(1, len(protocol.other_bases) + 1)
        for cell in plain
    ]
    return [*plain, *adapted, *counted, *elsewhere]


def sources_of(protocol: Protocol, domain: str) -> tuple[PaperTask, ...]:
    """The tasks that a search on ``domain`` learns from; those of all domains for ``global``."""
    domains = protocol.domains.values() if domain == GLOBAL else [protocol.domains[domain]]
    return tuple(task for tasks in domains for task in tasks if task.role == "source")


def unseen_of(protocol: Protocol, domain: str) -> tuple[PaperTask, ...]:
    """The tasks of ``domain`` that no search learns from; of all domains for ``global``."""
    domains = protocol.domains.values() if domain == GLOBAL else [protocol.domains[domain]]
    return tuple(task for tasks in domains for task in tasks if task.role == "unseen")


def load_protocol(
    path: Path, changes: Mapping[str, Any] | None = None, *, env: Mapping[str, str] | None = None
) -> Protocol:
    """The protocol of a file; ``changes`` by key go before what it says. Raises ``SearchFileError`` or
    ``DataError``."""
    env = os.environ if env is None else env
    told = _read(path)
    for name, value in (changes or {}).items():
        setattr(told, name, _some_domains(told, value) if name == "domains" else value)
    settings = Settings.from_env(env)
    _check_numbers(path, told)
    if not (told.seeds and told.methods and told.domains and told.scopes):
        raise SearchFileError(f"{path}: name at least one domain, one method, one scope and one seed.")
    for method in (*told.methods, *told.adapt):
        check_method(method)
    if "constant" in told.adapt:
        raise SearchFileError(
            f"{path}: adapt names constant, which answers without a model: there is no prompt to adapt. Take it out of "
            "adapt; it stays a row of `methods`."
        )
    models = models_from(path, told.models, env, settings)
    if told.user_prompts_by == "optimizer" and models.optimizer is None:
        raise SearchFileError(f"{path}: user_prompts_by is optimizer and there is none: add it or set it to own.")
    others = [model_from(path, f"other_bases[{i}]", model, env, settings) for i, model in enumerate(told.other_bases)]
    return Protocol(
        models=models,
        domains=_domains(told, path),
        name=told.name or path.stem,
        data=_beside(path, told.data) if told.data else None,
        methods=tuple(dict.fromkeys(told.methods)),
        scopes=tuple(dict.fromkeys(told.scopes)),
        source_counts=tuple(dict.fromkeys(told.source_counts)),
        adapt=tuple(dict.fromkeys(told.adapt)),
        other_bases=tuple(others),
        seeds=tuple(dict.fromkeys(told.seeds)),
        seed_prompt=told.seed_prompt,
        train_rows=told.train_rows,
        test_rows=told.test_rows,
        fewer=told.fewer,
        user_prompts=told.user_prompts,
        user_prompts_by=told.user_prompts_by,
        ask=told.ask,
        measure_sources=told.measure_sources,
        budget_calls=told.budget_calls,
        sizes=msgspec.convert(msgspec.to_builtins(told.sizes), LoopSizes),
        home=Path(told.home),
    )


def _check_numbers(path: Path, told: _PaperFile) -> None:
    """Raise ``SearchFileError`` for a number that no run can have."""
    numbers = {name: getattr(told, name) for name in ("train_rows", "test_rows", "user_prompts", "budget_calls")}
    numbers |= {f"sizes.{name}": getattr(told.sizes, name) for name in LoopSizes.__struct_fields__}
    for name, value in numbers.items():
        if value < 1:
            raise SearchFileError(f"{path}: {name} is {value}. It must be at least 1.")
    for count in told.source_counts:
        if count < 1:
            raise SearchFileError(
                f"{path}: source_counts holds {count}. Each is a number of source tasks to learn from, 1 or more."
            )
    if told.user_prompts_by == "own" and told.user_prompts > OWN:
        raise SearchFileError(
            f"{path}: user_prompts is {told.user_prompts} and there are {OWN} own wordings: set `user_prompts: {OWN}`, "
            "or name an optimizer model and set `user_prompts_by: optimizer`."
        )


def _some_domains(told: _PaperFile, names: list[str]) -> list[str] | dict[str, _Domain]:
    """The file's own domains called ``names``, or those of the catalogue where the file makes none of its own."""
    if not isinstance(told.domains, dict):
        return names
    for name in names:
        if name not in told.domains:
            raise SearchFileError(f"The file has no domain {name!r}.{nearest(name, told.domains)}")
    return {name: told.domains[name] for name in names}


def _domains(told: _PaperFile, path: Path) -> dict[str, tuple[PaperTask, ...]]:
    known = catalogue(_beside(path, told.tasks) if told.tasks else None)
    pick(known, told.skip)
    domains: dict[str, tuple[PaperTask, ...]] = {}
    if isinstance(told.domains, dict):
        for name, wanted in told.domains.items():
            chosen = [(task, "source") for task in pick(known, wanted.source)]
            chosen += [(task, "unseen") for task in pick(known, wanted.unseen)]
            domains[name] = tuple(msgspec.structs.replace(task, role=role) for task, role in chosen)
    else:
        domains = {name: tuple(domain_tasks(known, name)) for name in told.domains}
    kept = {name: tuple(task for task in tasks if task.name not in told.skip) for name, tasks in domains.items()}
    for name, tasks in kept.items():
        if name == GLOBAL or not any(task.role == "source" for task in tasks):
            raise SearchFileError(
                f"{path}: the domain {name!r} has no source task to learn from, or a name that is taken: give it one."
            )
    return kept


def _beside(file: Path, told: str) -> Path:
    beside = file.parent / told
    return beside if beside.is_dir() or not Path(told).is_dir() else Path(told)


def _read(path: Path) -> _PaperFile:
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SearchFileError(f"There is no {path}: write one with `metaspo paper init {path}`.") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SearchFileError(f"{path}: no readable YAML ({str(error).splitlines()[0]}).") from error
    try:
        return msgspec.convert(told, _PaperFile)
    except msgspec.ValidationError as error:
        unknown = str(error).split("`")
        hint = nearest(unknown[1], _PaperFile.__struct_fields__) if "unknown field" in str(error) else ""
        raise SearchFileError(f"{path}: {error}.{hint}") from error
