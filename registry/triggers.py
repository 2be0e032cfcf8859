"""Triggers: wishes that a job run. Written once per id, handed out until somebody reports them done."""

from __future__ import annotations

from registry.errors import Corrupt, Refused
from registry.records import Trigger
from registry.store import DAY, Store, decode, encode


class TriggerStore(Store):
    """The queue of wishes."""

    async def put_trigger(self, trigger: Trigger) -> bool:
        """False when this id was written before (remembered for seven days). Raises Refused when too many wait."""
        keys = (self._keys.trigger_queue, self._keys.trigger_bodies, self._keys.trigger_seen(trigger.id))
        args = (trigger.id, encode(trigger), repr(trigger.at), self._keep.triggers, int(7 * DAY))
        answer = int(await self._redis.run("put_trigger", keys, args, confirm=True))
        if answer < 0:
            raise Refused(f"{self._keep.triggers:,} triggers wait already: is a worker running?")
        return answer == 1

    async def take_triggers(self, limit: int = 10, *, again_after: float = 60.0) -> list[Trigger]:
        """Triggers whose time has come. One not reported done within ``again_after`` seconds is handed out again."""
        now = self._clock()
        keys = (self._keys.trigger_queue, self._keys.trigger_bodies)
        triggers = []
        for raw in await self._redis.run("take_triggers", keys, (repr(now), repr(now + again_after), limit)):
            try:
                triggers.append(decode(Trigger, raw, "A trigger"))
            except Corrupt:
                self._refuse("trigger")
        return triggers

    async def get_trigger(self, trigger_id: str) -> Trigger | None:
        """A trigger that is not done yet, or None. Raises Corrupt."""
        raw = await self._redis.command("HGET", self._keys.trigger_bodies, trigger_id)
        return None if raw is None else decode(Trigger, raw, f"The trigger {trigger_id}")

    async def open_triggers(self) -> list[Trigger]:
        """All that are not done yet, in no order. Unreadable ones are left out and counted."""
        triggers = []
        for raw in await self._redis.command("HVALS", self._keys.trigger_bodies):
            try:
                triggers.append(decode(Trigger, raw, "A trigger"))
            except Corrupt:
                self._refuse("trigger")
        return triggers

    async def done_trigger(self, trigger_id: str) -> None:
        """The job has run (or can never run): the trigger goes."""
        await self._redis.many(
            [("ZREM", self._keys.trigger_queue, trigger_id), ("HDEL", self._keys.trigger_bodies, trigger_id)]
        )

    async def waiting_triggers(self) -> int:
        """How many are not done yet."""
        return int(await self._redis.command("ZCARD", self._keys.trigger_queue))
