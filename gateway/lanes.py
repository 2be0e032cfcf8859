"""Asking an upstream: over the wire when it speaks the caller's dialect, else through the translate lane."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator

import msgspec

from gateway.body import Body, Edit, Pieces, spliced
from gateway.caller import Caller, ReplyHeaders
from gateway.dialects import Speech
from gateway.errand import in_task
from gateway.errors import RequestRefused, UpstreamFailed
from gateway.exchange import Exchange, Target, TranslateLane
from gateway.refusals import NO_TRANSLATION
from gateway.routing import Pick, Router
from gateway.upstream import Connection
from gateway.wire import Reply, TranslatedReply, WireLane, opened

RETRIED = frozenset((429, 500, 502, 503, 504, 529))
"""Answers for which another target is asked, where there is one. With a single target the caller decides."""

_string = msgspec.json.Encoder().encode


class Asked:
    """One request as it goes upstream: what was read, what is to be changed in it, and how to keep its caller
    waiting."""

    __slots__ = ("body", "caller", "edits", "exchange", "hide_usage", "on_quiet", "ours", "speech")

    def __init__(self, exchange: Exchange, caller: Caller, speech: Speech, body: Body) -> None:
        self.exchange = exchange
        self.caller = caller
        self.speech = speech
        self.body = body
        self.edits: list[Edit] = []
        self.ours: ReplyHeaders = []
        """Header fields that the gateway adds to the reply."""
        self.hide_usage = False
        self.on_quiet: Callable[[], None] | None = None

    def body_for(self, model: str) -> Pieces:
        """The body as a target gets it: spliced, with the model's name there. Without a change: the very bytes."""
        if model != self.exchange.model:
            return spliced(self.body.raw, [*self.edits, (*self.body.span("model"), _string(model))])
        return spliced(self.body.raw, self.edits) if self.edits else (self.body.raw,)


class Lanes:
    """Both ways upstream, and the one more try."""

    def __init__(
        self, wire: WireLane, translate: Callable[[], TranslateLane | None], monotonic: Callable[[], float]
    ) -> None:
        self.wire = wire
        self.translate = translate
        """The translate lane of the settings in force."""
        self.monotonic = monotonic

    async def ask(self, asked: Asked, router: Router, quiet: float) -> tuple[Reply, Pick]:
        """Ask one target; when that fails before the first byte, one more, where there is another.

        The caller must release the reply and call ``done`` on the pick. Raises UpstreamFailed, RequestRefused.
        """
        exchange = asked.exchange
        pick = router.choose(exchange.model, asked.speech.wire)
        monotonic = self.monotonic
        exchange.sent_at = monotonic()
        again = False
        while True:
            failure: UpstreamFailed | None = None
            try:
                reply = opened(await self._send(asked, pick, quiet))
                if reply.status not in RETRIED:
                    return reply, pick
            except UpstreamFailed as error:
                failure = error
            except BaseException:
                pick.done("unknown")
                raise
            elsewhere = None
            if not (again or asked.caller.started):
                elsewhere = router.another(pick, exchange.model, asked.speech.wire)
            if failure is not None:
                pick.done("failed")
                if elsewhere is None:
                    try:
                        raise failure
                    finally:
                        del failure  # else its traceback holds this frame, and this frame holds it
            elif elsewhere is None:
                return reply, pick
            else:
                reply.release()
                pick.done("busy" if reply.status == 429 else "failed", retry_after=retry_after(reply))
            pick, again = elsewhere, True

    def _send(self, asked: Asked, pick: Pick, quiet: float) -> Awaitable[Connection | TranslatedReply]:
        """To be awaited: the reply of one target, once its head is there."""
        asked.exchange.target = target = pick.target
        body = asked.body_for(target.model)
        if target.wire == asked.speech.wire:
            return self.wire.send(pick.upstream, asked.speech, body, asked.caller.head, asked.on_quiet, quiet)
        return self._translated(asked, b"".join(body), target, quiet)

    async def _translated(self, asked: Asked, body: bytes, target: Target, quiet: float) -> TranslatedReply:
        await in_task()  # LiteLLM's clients need one
        with _reminding(asked.on_quiet, quiet):
            status, headers, chunks = await self._translator().send(asked.exchange, body, target)
        return TranslatedReply(status, headers, _reminded(chunks, asked.on_quiet, quiet))

    def _translator(self) -> TranslateLane:
        lane = self.translate()
        if lane is None:
            raise RequestRefused(NO_TRANSLATION)
        return lane


@contextlib.contextmanager
def _reminding(on_quiet: Callable[[], None] | None, every: float) -> Iterator[None]:
    """Call ``on_quiet`` each ``every`` seconds inside the block (the wire lane's client does that by itself)."""
    if on_quiet is None:
        yield
        return
    wanted: Callable[[], None] = on_quiet

    async def remind() -> None:
        while True:
            await asyncio.sleep(every)
            wanted()

    reminder = asyncio.create_task(remind())
    try:
        yield
    finally:
        reminder.cancel()


async def _reminded(
    chunks: AsyncIterator[bytes], on_quiet: Callable[[], None] | None, every: float
) -> AsyncGenerator[bytes, None]:
    """The chunks; until the first one comes, `_reminding`."""
    try:
        with _reminding(on_quiet, every):
            first = await anext(chunks, b"")
        yield first
        async for chunk in chunks:
            yield chunk
    finally:
        if (aclose := getattr(chunks, "aclose", None)) is not None:
            await aclose()


def retry_after(reply: Reply) -> float:
    """Seconds the upstream asks to be left alone; 0 when it does not say (dates count as not said)."""
    for name, value in reply.headers:
        if name == b"retry-after":
            with contextlib.suppress(ValueError):
                return float(value)
    return 0.0
