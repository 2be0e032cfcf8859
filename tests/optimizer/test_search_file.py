"""The search file: what it may say, and what is told when it says something else."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.errors import DataError, SearchFileError
from optimizer.search_file import load_search_file
from optimizer.settings import Settings
from tests.optimizer.tasks.test_tasks import folder

HEAD = """
seed: You are a helpful assistant.
models:
  base: {model: openai/tiny, api_base: http://127.0.0.1:1/v1}
"""
TASKS = "tasks: [{path: toys/a}, {path: toys/b, role: unseen}]\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder(tmp_path / "toys" / "a")
    folder(tmp_path / "toys" / "b")
    path = tmp_path / "search.yaml"
    path.write_text(HEAD + TASKS)
    return path


def test_the_file_of_the_contract(file: Path) -> None:
    file.write_text(
        "seed: Hello.\n"
        "models:\n"
        "  base: {model: openai/qwen-0.5b, api_base: 'http://127.0.0.1:8091/v1', concurrency: 4}\n"
        "  optimizer: {model: anthropic/claude-sonnet-4-5}\n"
        "  judge: {model: openai/gpt-4o-mini, api_key: 'env:KEY'}\n" + TASKS + "budget: {calls: 6000, usd: 5}\n"
    )
    spec = load_search_file(file, env={"KEY": "k", "METASPO_HOME": "/somewhere"})
    assert [task.name for task in spec.sources] == ["a"]
    assert [task.name for task in spec.unseen] == ["b"]
    assert spec.models.judge is not None
    assert spec.models.judge.api_key == "k"
    assert spec.models.base.concurrency == 4
    assert (spec.budget.calls, spec.budget.usd) == (6000, 5.0)
    assert spec.home == Path("/somewhere/search")
    assert spec.models.audit_judge is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD + TASKS + "budjet: {calls: 5}\n", r"the key 'budjet' is not known. Did you mean 'budget'\?"),
        (HEAD + TASKS + "budget: {call: 5}\n", r"the key 'call' under budget is not known. Did you mean 'calls'\?"),
        (HEAD + TASKS + "budget: {calls: many}\n", r"budget.calls: Expected `int \| null`, got `str`"),
        (HEAD + TASKS + "budget: {calls: 0}\n", "budget.calls is 0. It must be more than 0"),
        (HEAD + TASKS + "sizes: {iterations: 0}\n", "sizes.iterations is 0"),
        (HEAD + TASKS + "method: metaspoo\n", r"method 'metaspoo' is not known. Did you mean 'metaspo'\?"),
        (HEAD, "the required key is missing: `tasks`"),
        (HEAD + "tasks: []\n", "`tasks` is empty"),
        (HEAD + "tasks: [{path: toys/a, role: unseen}]\n", "all tasks are unseen"),
        (HEAD + "tasks: [{path: toys/a}, {path: toys/a}]\n", "two tasks are called 'a'"),
        (
            HEAD + "tasks: [{path: toys/a, rolle: unseen}]\n",
            r"'rolle' under tasks\[.*\] is not known. Did you mean 'role'",
        ),
        ("seed: [\n", r"search.yaml:\d+: "),
        ("just text", "is a mapping"),
        ("seed: x\nmodels: {base: {modell: y}}\n" + TASKS, "Did you mean 'model'"),
        (HEAD.replace("/v1}", "/v1, api_key: 'env:NOPE'}") + TASKS, "names the variable NOPE, which is not set"),
        (HEAD.replace("/v1}", "/v1, execution: soon}") + TASKS, "must be live or batch"),
        (HEAD.replace("/v1}", "/v1, concurrency: 0}") + TASKS, "concurrency is 0"),
    ],
)
def test_what_is_told_when_it_is_wrong(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(SearchFileError, match=told) as caught:
        load_search_file(file, env={})
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("seed", "models", "tasks", "budget", "method", "faithful", "home", "sizes", "options", "incumbent")


@given(
    st.one_of(st.text(max_size=60), st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, YAML)).map(yaml.safe_dump))
)
@settings(deadline=None)
def test_no_file_ends_in_a_traceback(text: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        with pytest.raises((SearchFileError, DataError)):
            load_search_file(Path(file.name), env={})


def test_a_task_folder_that_is_not_there(file: Path) -> None:
    file.write_text(HEAD + "tasks: [{path: toys/nowhere}]\n")
    with pytest.raises(DataError, match=r"nowhere/task.json: cannot be read"):
        load_search_file(file, env={})


def test_settings_from_the_environment() -> None:
    assert Settings.from_env({"METASPO_SEARCH_HOME": "/x", "METASPO_SEARCH_CONCURRENCY": "3"}) == Settings(
        home=Path("/x"), concurrency=3
    )
    for bad in ("0", "-1", "many", "1.5"):
        with pytest.raises(SearchFileError, match="positive whole number"):
            Settings.from_env({"METASPO_SEARCH_CONCURRENCY": bad})
