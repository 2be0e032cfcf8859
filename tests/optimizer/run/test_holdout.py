"""A holdout example confirms one run only: across runs of a home, through kills, and with the explicit exception."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from optimizer.errors import JournalError, RunBlocked
from optimizer.records import Example, Models, ModelSpec, SearchSpec, SearchTask
from optimizer.run.holdout import ACCOUNT, Holdout, item_of
from tests.optimizer.test_search import INFORMATIVE, in_world, outcome


def rows(count: int, start: int = 0) -> tuple[Example, ...]:
    return tuple(
        Example(id=str(i), question=f"case {i}", answers=("a",), cluster=str(i)) for i in range(start, start + count)
    )


def spec_of(home: Path, holdout: tuple[Example, ...], **more) -> SearchSpec:
    task = SearchTask(
        name="one", user_prompt="{question}", reflect=rows(20, 900), select=rows(30, 950), holdout=holdout
    )
    settings = {"holdout": "once"} | more
    return SearchSpec(seed_prompt="x", tasks=(task,), models=Models(base=ModelSpec(model="m")), home=home, **settings)


def ids(chosen) -> set[str]:
    return {example.id for example in chosen["one"]}


def test_two_runs_never_share_an_example(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, rows(130))
    first, nothing_told = Holdout(spec, "first").choose(60, 0, takes=True)
    second, told = Holdout(spec, "second").choose(60, 0, takes=True)
    assert len(ids(first)) == len(ids(second)) == 60
    assert not ids(first) & ids(second)
    assert nothing_told == ()
    assert "60 holdout examples confirmed an earlier run" in told[0]
    with pytest.raises(RunBlocked, match=r"120 of the 130 .* task one .*--reuse-holdout"):
        Holdout(spec, "third").check()
    fresh = spec_of(tmp_path, (*rows(130), *rows(40, 200)))
    Holdout(fresh, "third").check()


def test_a_resumed_run_finds_its_own_examples(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, rows(130))
    first, _ = Holdout(spec, "first").choose(60, 0, takes=True)
    Holdout(spec, "second").choose(60, 0, takes=True)
    size = (tmp_path / ACCOUNT).stat().st_size
    Holdout(spec, "first").check()
    assert Holdout(spec, "first").choose(60, 0, takes=True)[0] == first
    assert (tmp_path / ACCOUNT).stat().st_size == size


def test_without_a_challenger_nothing_is_used_up(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, rows(60))
    Holdout(spec, "first").choose(60, 0, takes=False)
    Holdout(spec, "second").check()
    Holdout(msgspec.structs.replace(spec, holdout="untracked"), "third").choose(60, 0, takes=True)
    Holdout(spec, "second").check()


def test_the_exception_is_named_in_the_report(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, rows(60))
    first, _ = Holdout(spec, "first").choose(60, 0, takes=True)
    again = Holdout(msgspec.structs.replace(spec, holdout="reuse"), "second")
    again.check()
    second, told = again.choose(60, 0, takes=True)
    assert second == first
    assert "60 of the 60 holdout examples had confirmed an earlier run (--reuse-holdout)" in told[0]


def test_a_torn_line_never_counted_and_a_strange_one_is_named(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, rows(60))
    Holdout(spec, "first").choose(10, 0, takes=True)
    account = tmp_path / ACCOUNT
    whole = account.read_bytes()
    account.write_bytes(whole + whole[:40])
    Holdout(spec, "second").choose(50, 0, takes=True)
    assert account.read_bytes().startswith(whole)
    assert account.read_bytes().count(b"\n") == 2
    account.write_bytes(b"no account\n" + whole)
    with pytest.raises(JournalError, match=r"holdout\.jsonl:1: "):
        Holdout(spec, "third").check()


def test_an_account_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / ACCOUNT).mkdir()
    with pytest.raises(JournalError, match=r"cannot be opened .*--resume"):
        Holdout(spec_of(tmp_path, rows(60)), "first").check()


def test_an_item_is_its_content(tmp_path: Path) -> None:
    one = rows(1)[0]
    assert item_of(one) == item_of(msgspec.structs.replace(one, id="renamed", cluster="other", position=7))
    assert item_of(one) != item_of(msgspec.structs.replace(one, question="case 0b"))


async def test_the_second_search_of_a_home_is_refused_before_it_spends(tmp_path: Path) -> None:
    first = await in_world(tmp_path, INFORMATIVE, 1500, holdout="once")
    assert first.gate is not None
    again = await in_world(tmp_path, INFORMATIVE, 1500, holdout="once", resume=True)
    assert outcome(again) == outcome(first)
    with pytest.raises(RunBlocked, match="have confirmed an earlier run"):
        await in_world(tmp_path, INFORMATIVE, 1500, holdout="once", seed=77)
    reused = await in_world(tmp_path, INFORMATIVE, 1500, holdout="reuse", seed=77)
    assert any("--reuse-holdout" in note for note in reused.notes)
