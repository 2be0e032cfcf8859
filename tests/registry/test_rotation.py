"""A new signing key: what the old one signed is signed again, what it did not sign is named and never blessed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from registry import Domain, Lineage, Refused, Registry, Signer, Snapshot, Verifier, verify, watch
from registry.versions import served
from tests.registry.conftest import Clock, Connect, domain_with_versions

NEW = Signer.create(bytes(range(1, 33)))


async def test_everything_is_signed_again_and_the_old_key_is_refused(
    registry: Registry, connect: Connect, signer: Signer
) -> None:
    await domain_with_versions(registry)
    await registry.put_domain(Domain(name="locked", parent=None, locked="Never lie."), actor="a")
    await registry.canary("support", 2, 0.1, actor="a", why="")
    epoch = (await registry.snapshot()).epoch
    done = await registry.rotate_signing_key(signer.public, NEW, actor="ops", why="the old one leaked")
    assert done.signed == 3 + 2 + 1 and not done.refused  # versions, served copies, a locked block
    for number in (1, 2, 3):
        assert verify(NEW.public, served(await registry.get_version("support", number)), "support")
    taken = await registry.snapshot()
    assert taken.epoch > epoch
    assert all(verify(NEW.public, one, "support") for one in taken.domains["support"].versions.values())
    assert Verifier(NEW.public).locked(taken.domains["locked"].domain)
    # The process that still holds the old key says so; one with the new key goes on.
    with pytest.raises(Refused, match="not with the one here"):
        await registry.add_version("support", "More.", lineage=Lineage(author="a"))
    fresh = await connect(registry.connection.url, signer=NEW)
    version = await fresh.add_version("support", "More.", lineage=Lineage(author="a"))
    await fresh.promote("support", version.number, actor="a", why="")
    again = await fresh.rotate_signing_key(signer.public, NEW, actor="ops")
    assert again.signed == 0 and not again.refused
    entry = (await fresh.fleet_history())[0]
    assert entry.kind == "rotate_signing_key" and entry.detail["signed"] == 0


async def test_what_the_old_key_did_not_sign_is_named_and_stays_unsigned(plain: Registry, signer: Signer) -> None:
    await domain_with_versions(plain)
    redis, keys = plain.connection, plain.connection.keys
    raw = await redis.command("HGET", keys.versions("support"), 2)
    await redis.command("HSET", keys.versions("support"), 2, raw.replace(b"Prompt 2", b"Poison 2"))
    await redis.command("HSET", keys.versions("support"), 3, b"soup")
    done = await plain.rotate_signing_key(signer.public, NEW, actor="ops")
    assert done.signed == 2  # version 1 and its served copy
    assert len(done.refused) == 2
    assert "Version 2 of support is not signed by the old key." in done.refused
    assert await redis.command("HGET", keys.versions("support"), 3) == b"soup"
    stranger = Signer.create(bytes(range(2, 34)))
    with pytest.raises(Refused, match="name the public key that the gateways use now"):
        await plain.rotate_signing_key(stranger.public, Signer.create(), actor="ops")
    with pytest.raises(Refused, match="is the old one"):
        await plain.rotate_signing_key(NEW.public, NEW, actor="ops")


async def test_no_gateway_is_without_a_prompt_while_the_key_changes(
    plain: Registry, signer: Signer, prefix: str, clock: Clock, tmp_path: Path
) -> None:
    await domain_with_versions(plain)
    shots: list[Snapshot] = []
    before = watch(plain.connection.url, tmp_path / "cache", signer.public, shots.append, prefix=prefix, clock=clock)
    await before.start()
    await plain.rotate_signing_key(signer.public, NEW, actor="ops")
    for _ in range(200):
        if before.refused:
            break
        await asyncio.sleep(0.01)
    # With the old public key it goes on serving what it has, and says that it refuses the rest.
    assert before.refused["domain"] == 1
    assert all(shot.domains["support"].deployment.stable == 1 for shot in shots)
    await before.stop()
    after = watch(plain.connection.url, tmp_path / "cache", NEW.public, shots.append, prefix=prefix, clock=clock)
    await after.start()
    assert after.current is not None and after.current.domains["support"].deployment.stable == 1
    await after.stop()
