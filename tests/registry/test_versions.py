"""Versions and pointers, on every kind of server."""

from __future__ import annotations

import asyncio

import pytest

from registry import (
    FLEET,
    Conflict,
    Domain,
    EmbeddedRedis,
    Lineage,
    NotFound,
    Refused,
    Registry,
    RetentionSettings,
    Signer,
    content_hash,
    verify,
)
from registry.versions import served
from tests.registry.conftest import NOW, Clock, Connect, domain_with_versions


async def test_versions_are_numbered_signed_and_one_per_text(registry: Registry, signer: Signer) -> None:
    await registry.put_domain(Domain(name="support", parent=None), actor="anna")
    lineage = Lineage(parent=None, run="r1", datasets=("sha256:d",), author="anna", why="better")
    first = await registry.add_version("support", "Be brief.", lineage=lineage)
    second = await registry.add_version("support", "Be kind.", lineage=lineage)
    again = await registry.add_version("support", "Be brief.", lineage=Lineage(author="bob"))
    assert (first.number, second.number, again) == (1, 2, first)
    assert first.hash == content_hash("Be brief.")
    assert await registry.get_version("support", 1) == first
    assert await registry.list_versions("support") == [first, second]
    assert verify(signer.public, served(first), "support")
    assert not verify(signer.public, served(first), "billing")
    assert [entry.kind for entry in await registry.history("support")] == ["version", "version", "domain"]


async def test_a_version_is_added_once_per_request(registry: Registry) -> None:
    await registry.put_domain(Domain(name="support", parent=None), actor="anna")
    first = await registry.add_version("support", "One.", lineage=Lineage(), request_id="r")
    again = await registry.add_version("support", "One, but retyped.", lineage=Lineage(), request_id="r")
    assert first == again
    assert len(await registry.list_versions("support")) == 1


async def test_many_writers_get_numbers_without_gaps(registry: Registry) -> None:
    await registry.put_domain(Domain(name="support", parent=None), actor="anna")
    added = await asyncio.gather(
        *(registry.add_version("support", f"Text {i % 8}", lineage=Lineage()) for i in range(16))
    )
    assert sorted({version.number for version in added}) == list(range(1, 9))
    assert {v.system_prompt for v in await registry.list_versions("support")} == {f"Text {i}" for i in range(8)}


@pytest.mark.parametrize("text", ["", "  \n", "a\x00b", "\ud800", "x" * 200_001])
async def test_what_cannot_be_a_prompt_is_refused(plain: Registry, text: str) -> None:
    await plain.put_domain(Domain(name="support", parent=None), actor="anna")
    with pytest.raises(Refused):
        await plain.add_version("support", text, lineage=Lineage())


async def test_the_story_of_a_domain(registry: Registry, clock: Clock) -> None:
    await domain_with_versions(registry)
    times = [clock.now]
    for step in (
        lambda: registry.canary("support", 2, 0.1, actor="anna", why="try"),
        lambda: registry.set_share("support", 0.3, actor="jobs", why="no harm so far"),
        lambda: registry.promote("support", 2, actor="jobs", why="better"),
        lambda: registry.set_holdback("support", 1, 0.05, actor="jobs", why="what is it worth"),
        lambda: registry.rollback("support", actor="anna", why="complaints"),
    ):
        clock.tick(60)
        await step()
        times.append(clock.now)
    now = await registry.deployment("support")
    assert (now.stable, now.canary, now.previous, now.holdback, now.epoch) == (1, None, None, None, 6)
    moves = await registry.history("support", moves_only=True)
    assert [entry.kind for entry in moves] == ["rollback", "holdback", "promote", "share", "canary", "promote"]
    assert [entry.after.epoch for entry in moves if entry.after] == [6, 5, 4, 3, 2, 1]
    assert all(entry.before is not None and entry.actor and entry.why for entry in moves)
    everything = await registry.history("support")
    assert [entry.seq for entry in everything] == list(range(len(everything), 0, -1))
    assert await registry.history("support", 2, before=everything[1].seq) == everything[2:4]
    # What served when?
    assert (await registry.served_at("support", times[0] - 1)).stable is None
    assert (await registry.served_at("support", times[0])).stable == 1
    assert (await registry.served_at("support", times[1] + 30)).share == 0.1
    assert (await registry.served_at("support", times[3] + 0.001)).stable == 2
    assert (await registry.served_at("support", times[5] + 1e6)).stable == 1


async def test_what_served_long_ago_is_no_longer_known_and_never_guessed(
    connect: Connect, url: str, clock: Clock
) -> None:
    """The audit keeps its newest entries, and the index of moves no more than it."""
    registry = await connect(url, retention=RetentionSettings(audit=100))
    await domain_with_versions(registry, count=2)
    began = clock.now
    for number in range(250):
        clock.tick()
        await registry.promote("support", 2 - number % 2, actor="a", why="")
    keys = registry.connection.keys
    assert int(await registry.connection.command("ZCARD", keys.moves("support"))) == 100
    assert int(await registry.connection.command("XLEN", keys.audit("support"))) < 250
    assert (await registry.served_at("support", began + 250)).stable == 1
    assert (await registry.served_at("support", began + 151.5)).stable == 2
    assert (await registry.served_at("support", began + 150)).stable == 1  # told by the move after it
    with pytest.raises(NotFound, match="no longer reaches back"):
        await registry.served_at("support", began + 149)
    # An entry that went before its move: the next move says what it found.
    [seq] = await registry.connection.command("ZREVRANGEBYSCORE", keys.moves("support"), began + 240, 0, "LIMIT", 0, 1)
    assert await registry.connection.command("XDEL", keys.audit("support"), f"{int(seq)}-0")
    assert (await registry.served_at("support", began + 240)).epoch == 241


async def test_a_stale_epoch_conflicts_and_says_what_moved(registry: Registry) -> None:
    await domain_with_versions(registry)
    seen = (await registry.deployment("support")).epoch
    await registry.promote("support", 2, actor="anna", why="it won")
    with pytest.raises(
        Conflict, match=r"epoch 2, you saw epoch 1; anna .* promote \(stable 1 -> 2.*: it won"
    ) as caught:
        await registry.promote("support", 3, actor="bob", why="mine", if_epoch=seen)
    assert caught.value.current.stable == 2
    assert caught.value.moved.actor == "anna"
    assert (await registry.deployment("support")).stable == 2


async def test_of_two_operators_at_once_one_wins(registry: Registry, connect: Connect) -> None:
    await domain_with_versions(registry, count=9)
    others = [await connect(registry.connection.url) for _ in range(3)]
    for round_number in range(4):
        epoch = (await registry.deployment("support")).epoch
        outcomes = await asyncio.gather(
            *(
                who.promote("support", 2 + 4 * (round_number % 2) + place, actor=f"op{place}", why="", if_epoch=epoch)
                for place, who in enumerate([registry, *others])
            ),
            return_exceptions=True,
        )
        won = [one for one in outcomes if not isinstance(one, BaseException)]
        lost = [one for one in outcomes if isinstance(one, Conflict)]
        assert len(won) == 1 and len(lost) == 3
        assert await registry.deployment("support") == won[0]
        assert all(conflict.current.epoch == epoch + 1 for conflict in lost)
    moves = await registry.history("support", moves_only=True)
    assert [entry.after.epoch for entry in moves if entry.after] == [5, 4, 3, 2, 1]


async def test_moves_happen_once_per_request(registry: Registry) -> None:
    await domain_with_versions(registry)
    for wish in (
        lambda: registry.canary("support", 2, 0.1, actor="a", why="", request_id="c"),
        lambda: registry.abort("support", actor="a", why="", request_id="x"),
        lambda: registry.promote("support", 2, actor="a", why="", request_id="p"),
        lambda: registry.promote("support", 2, actor="a", why="", request_id="p2"),
        lambda: registry.rollback("support", actor="a", why="", request_id="r"),
    ):
        first, second = await wish(), await wish()
        assert first == second
    assert len(await registry.history("support", moves_only=True)) == 5


async def test_a_wish_that_was_fulfilled_already_is_answered_by_its_request_too(registry: Registry) -> None:
    """Its answer got lost, another moved meanwhile, it is asked again: that must not undo the other's move."""
    await domain_with_versions(registry)
    asked = {"actor": "a", "why": "", "request_id": "r1"}
    first = await registry.promote("support", 1, **asked)  # is stable already
    await registry.promote("support", 2, actor="b", why="")
    assert await registry.promote("support", 1, **asked) == first
    assert (await registry.deployment("support")).stable == 2
    # The same for every other move, also when its version was blocked meanwhile.
    await registry.canary("support", 3, 0.1, actor="a", why="", request_id="c1")
    await registry.abort("support", actor="a", why="", request_id="a1")
    await registry.block_version("support", 3, "bad", "a")
    again = await registry.canary("support", 3, 0.1, actor="a", why="", request_id="c1")
    assert (again.canary, again.share) == (3, 0.1)
    assert (await registry.abort("support", actor="a", why="", request_id="a1")).canary is None
    await registry.rollback("support", actor="a", why="", request_id="b1")
    assert (await registry.rollback("support", actor="a", why="", request_id="b1")).stable == 1
    moves = await registry.history("support", moves_only=True)
    assert [entry.kind for entry in moves] == ["rollback", "abort", "canary", "promote", "promote"]


async def test_two_who_wish_the_same_at_once_both_get_it(registry: Registry, connect: Connect) -> None:
    await domain_with_versions(registry)
    other = await connect(registry.connection.url)
    results = await asyncio.gather(
        registry.promote("support", 2, actor="anna", why=""), other.promote("support", 2, actor="bob", why="")
    )
    assert results[0] == results[1]
    assert len(await registry.history("support", moves_only=True)) == 2


async def test_blocked_versions_never_serve(registry: Registry) -> None:
    await domain_with_versions(registry)
    with pytest.raises(Refused, match="serves now"):
        await registry.block_version("support", 1, "leaks", "anna")
    await registry.block_version("support", 2, "leaks a name", "anna")
    await registry.block_version("support", 2, "leaks a name", "anna")
    assert (await registry.get_version("support", 2)).blocked == "leaks a name"
    for wish in (
        registry.promote("support", 2, actor="a", why=""),
        registry.canary("support", 2, 0.1, actor="a", why=""),
        registry.set_holdback("support", 2, 0.1, actor="a", why=""),
    ):
        with pytest.raises(Refused, match="blocked: leaks a name"):
            await wish
    await registry.promote("support", 3, actor="a", why="")
    await registry.block_version("support", 1, "old", "anna")
    with pytest.raises(Refused, match="blocked: old"):
        await registry.rollback("support", actor="a", why="")
    assert [e.kind for e in await registry.history("support")].count("block") == 2


async def test_what_is_not_there_is_not_found(registry: Registry) -> None:
    await domain_with_versions(registry)
    for wish in (
        registry.get_domain("nope"),
        registry.get_version("support", 9),
        registry.deployment("nope"),
        registry.promote("support", 9, actor="a", why=""),
        registry.promote("nope", 1, actor="a", why=""),
        registry.add_version("nope", "text", lineage=Lineage()),
        registry.block_version("support", 9, "why", "a"),
    ):
        with pytest.raises(NotFound):
            await wish


async def test_a_domain_deleted_and_made_again_goes_on(registry: Registry) -> None:
    await domain_with_versions(registry)
    await registry.delete_domain("support", "anna", "not needed")
    with pytest.raises(NotFound):
        await registry.deployment("support")
    assert await registry.list_domains() == []
    assert "support" not in (await registry.snapshot()).domains
    assert [e.kind for e in await registry.fleet_history(1)] == ["delete_domain"]
    await registry.put_domain(Domain(name="support", parent=None), actor="anna")
    deployment = await registry.deployment("support")
    assert (deployment.stable, deployment.epoch) == (None, 2)
    assert (await registry.add_version("support", "New.", lineage=Lineage())).number == 4
    assert (await registry.served_at("support", NOW)).stable is None


async def test_domains_are_checked_and_audited(registry: Registry) -> None:
    for name in ("", "Upper", "a b", "{x}", "*", "x" * 64, "-a"):
        with pytest.raises(Refused, match="cannot name a domain"):
            await registry.put_domain(Domain(name=name), actor="a")
    assert await registry.put_domain(Domain(name="a", parent=None), actor="a")
    assert not await registry.put_domain(Domain(name="a", parent=None), actor="a")
    await registry.put_domain(Domain(name="b", parent="a"), actor="a")
    with pytest.raises(Refused, match="circle"):
        await registry.put_domain(Domain(name="a", parent="b"), actor="a")
    with pytest.raises(Refused, match="does not exist"):
        await registry.put_domain(Domain(name="c", parent="nope"), actor="a")
    await registry.put_domain(Domain(name="a", parent=None, inject="append"), actor="eve", why="x")
    entry = (await registry.history("a"))[0]
    assert entry.detail == {"inject": [None, "append"]}
    assert [domain.name for domain in await registry.list_domains()] == ["a", "b"]


async def test_another_signing_key_is_refused(plain: Registry, connect: Connect, embedded: EmbeddedRedis) -> None:
    await domain_with_versions(plain)
    stranger = await connect(embedded.url, signer=Signer.create(bytes(32)))
    with pytest.raises(Refused, match=r"copy its signing\.key"):
        await stranger.add_version("support", "Signed by a stranger.", lineage=Lineage())


async def test_the_audit_takes_other_entries_once_per_request(registry: Registry) -> None:
    await domain_with_versions(registry)
    first = await registry.append_audit("support", "note", "anna", "looked at it", {"n": 1}, request_id="q")
    assert await registry.append_audit("support", "note", "anna", "looked at it", {"n": 1}, request_id="q") == first
    assert (await registry.history("support"))[0].detail == {"n": 1}
    assert await registry.append_audit(FLEET, "note", "anna", "all of it") == 1
