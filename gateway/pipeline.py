"""The story of one request.

    shed -> authenticate -> read the body -> read the dialect -> domain, task, unit, arm -> limits
         -> compose the system prompt -> ask an upstream (again elsewhere at most once, before the first byte)
         -> relay -> *the caller has the answer* -> settle, count, offer for learning

The request path reads memory only: the snapshot that was compiled when it arrived, the keys in it, and counters. A failure of
anything else (registry, recorder, metrics) never changes or delays a reply.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from random import Random

from gateway import assignment, routing
from gateway.assignment import NOTHING, Choice, Plan, Serving
from gateway.body import Body, decompress, parse, splice
from gateway.caller import Caller, ReplyHeaders
from gateway.dialects import Speech
from gateway.errors import (
    CallerGone,
    RequestRefused,
    UpstreamFailed,
    UpstreamTimeout,
    error_body,
    error_event,
    upstream_refusal,
)
from gateway.exchange import (
    Auth,
    Exchange,
    ExchangeIds,
    Limits,
    Metrics,
    NoLimits,
    NothingCounted,
    NothingKept,
    OpenDoor,
    PlainIds,
    Recorder,
    Refusal,
    TranslateLane,
)
from gateway.relay import is_event_stream, relay_stream, relay_whole, say_failure, stream_headers
from gateway.settings import House
from gateway.wire import Reply, TranslatedReply, WireLane

log = logging.getLogger("gateway")

RETRIED = frozenset((429, 500, 502, 503, 504, 529))
"""Answers for which another target is asked, where there is one. With a single target the caller decides."""
FAILURES = frozenset((500, 502, 503, 504, 529))
"""Answers that count against a target's health."""
JSON = (b"content-type", b"application/json")
OVERLOADED = Refusal(
    429, "This gateway is at its limit: try again in a moment.", "rate_limit_error", code="overloaded", retry_after=1.0
)
NO_KEY = Refusal(
    401,
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY) or in x-api-key.",
    "invalid_request_error",
    code="invalid_api_key",
    headers=((b"www-authenticate", b"Bearer"),),
)
BAD_KEY = Refusal(
    401,
    "Incorrect API key provided. Ask the operator of this gateway for a caller key.",
    "invalid_request_error",
    code="invalid_api_key",
    headers=((b"www-authenticate", b"Bearer"),),
)
NOT_JSON = Refusal(415, "The body of the request must be JSON: send it with `content-type: application/json`.")
NO_TRANSLATION = Refusal(
    501, "This model's upstream speaks another dialect, and no translate lane is set up.", "server_error"
)
ENDING = Refusal(
    503, "This gateway is shutting down: try again.", "server_error", code="shutting_down", retry_after=1.0
)
INTERNAL = Refusal(
    500, "The gateway failed to carry this request. It has been logged.", "server_error", code="internal_error"
)


class Neighbours:
    """What the pipeline hands on to, each behind a small protocol; plain stand-ins where nothing is given."""

    def __init__(
        self,
        *,
        auth: Auth | None = None,
        limits: Limits | None = None,
        recorder: Recorder | None = None,
        metrics: Metrics | None = None,
        ids: ExchangeIds | None = None,
        translate: TranslateLane | None = None,
    ) -> None:
        self.auth: Auth = auth or OpenDoor()
        self.limits: Limits = limits or NoLimits()
        self.recorder: Recorder = recorder or NothingKept()
        self.metrics: Metrics = metrics or NothingCounted()
        self.ids: ExchangeIds = ids or PlainIds()
        self.translate = translate


class Pipeline:
    """Carries exchanges. One per worker; ``serving`` and ``house`` are replaced whole, never changed."""

    def __init__(
        self,
        house: House,
        neighbours: Neighbours,
        wire: WireLane,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        random: Random,
    ) -> None:
        self.house = house
        self.serving: Serving = assignment.EMPTY
        self.neighbours = neighbours
        self.wire = wire
        self.clock = clock
        self.monotonic = monotonic
        self.random = random
        self.router = routing.Router(house, monotonic, random)
        self.in_flight = 0
        self._ids = map((f"{random.getrandbits(48):012x}" + "{:x}").format, itertools.count(1))

    def reload(self, house: House) -> None:
        """New settings, for requests that begin from now on."""
        self.house = house
        self.router = routing.Router(house, self.monotonic, self.random, known=self.router)
        self.wire.forget_lines()

    async def carry(self, caller: Caller, speech: Speech) -> None:
        """Carry one request from its head to the end of its reply. Never raises but for cancellation."""
        neighbours = self.neighbours
        exchange = Exchange(next(self._ids), speech.name, self.clock(), self.monotonic())
        admitted = False
        self.in_flight += 1
        try:
            if self.in_flight > self.house.max_in_flight:
                raise RequestRefused(OVERLOADED)
            exchange.key = self._authenticate(caller)
            body = parse(await self._read(caller), self.house.max_depth)
            speech.read(body)
            plan = self._describe(exchange, caller, speech, body)
            if (refusal := neighbours.limits.admit(exchange.key, exchange.estimate)) is not None:
                raise RequestRefused(refusal)
            admitted = True
            choice = self._assign(exchange, caller, plan)
            await self._answer(exchange, caller, speech, body, choice, plan)
        except RequestRefused as error:
            exchange.ending = "refused"
            await self._refuse(exchange, caller, error.refusal)
        except UpstreamFailed as failure:
            exchange.ending = "timeout" if isinstance(failure, UpstreamTimeout) else "upstream_error"
            if caller.started:  # a comment kept the caller waiting: the status is sent
                await say_failure(exchange.dialect, caller, failure)
            else:
                await self._refuse(exchange, caller, upstream_refusal(failure))
        except CallerGone:
            exchange.ending = "caller_gone"
            exchange.status = exchange.status or 499
        except asyncio.CancelledError:
            await self._end_early(exchange, caller)
            raise
        except Exception:
            log.exception("exchange %s failed inside the gateway", exchange.id)
            exchange.ending = "failed"
            if caller.started:
                caller.cut()
            else:
                await self._refuse(exchange, caller, INTERNAL)
        finally:
            self.in_flight -= 1
            exchange.ended_at = self.monotonic()
            self._hand_on(exchange, admitted=admitted)

    # --- the steps, in order -----------------------------------------------------------------------------------------

    def _authenticate(self, caller: Caller):  # type: ignore[no-untyped-def]
        headers = caller.headers
        token = headers.get(b"authorization", b"")
        token = token[7:].strip() if token[:7].lower() == b"bearer " else headers.get(b"x-api-key", b"")
        key = self.neighbours.auth.caller(token)
        if key is None:
            raise RequestRefused(BAD_KEY if token else NO_KEY)
        return key

    async def _read(self, caller: Caller) -> bytes:
        headers = caller.headers
        kind = headers.get(b"content-type")
        if kind is not None and b"json" not in kind.lower():
            raise RequestRefused(NOT_JSON)
        raw = await caller.body(self.house.max_body)
        encoding = headers.get(b"content-encoding")
        return raw if encoding is None else decompress(raw, encoding, self.house.max_body)

    def _describe(self, exchange: Exchange, caller: Caller, speech: Speech, body: Body) -> Plan | None:
        """Fill in what the request says of itself; find its domain, task and unit."""
        headers = caller.headers
        exchange.request = body.raw
        exchange.model = body.text("model")
        exchange.stream = body.flag("stream")
        exchange.sample_off = headers.get(b"x-metaspo-sample") == b"off"
        exchange.idempotency_key = headers.get(b"idempotency-key", b"")
        exchange.estimate = len(body.raw) // 4
        serving = self.serving
        if not serving.plans:
            return None
        plan = serving.resolve(exchange, headers, speech, body)
        if plan is not None:
            assignment.find_unit(exchange, headers, speech, body)
        return plan

    def _assign(self, exchange: Exchange, caller: Caller, plan: Plan | None) -> Choice:
        if plan is None or caller.headers.get(b"x-metaspo-inject") == b"off":
            return NOTHING
        key = exchange.key
        return plan.choose(key.id if key is not None else "", exchange.unit)

    async def _answer(
        self, exchange: Exchange, caller: Caller, speech: Speech, body: Body, choice: Choice, plan: Plan | None
    ) -> None:
        edits = None
        if choice.prompt is not None and speech.injects and plan is not None:
            edits = speech.inject(body, choice.prompt, only_fill=plan.fill)
            if edits is not None:
                exchange.arm = choice.arm
                exchange.version = choice.prompt.number
                exchange.served_domain = plan.served_domain
        exchange.token = self.neighbours.ids.issue(exchange)
        ours = self._our_headers(exchange)
        on_quiet = None
        if exchange.stream:
            quiet_headers = stream_headers([(b"content-type", b"text/event-stream; charset=utf-8")], ours)

            def on_quiet() -> None:
                exchange.status = 200
                caller.remark(quiet_headers)

        hide_usage = False
        if exchange.stream and self._wants_usage(exchange):
            wish = speech.asks_usage(body)
            if wish is not None:
                edits = [*(edits or ()), wish]
                hide_usage = True
        raw = splice(body.raw, edits) if edits else body.raw
        reply, pick = await self._ask(exchange, caller, speech, raw, body, edits or [], on_quiet)
        verdict = "unknown"
        try:
            if caller.started and reply.status != 200:
                raise UpstreamFailed(f"The upstream answered with status {reply.status}.", started=True)
            exchange.answered_by = "upstream"
            if exchange.stream and reply.status == 200 and is_event_stream(reply.headers):
                await relay_stream(
                    exchange, caller, reply, ours, self.monotonic, self.house.max_copy, hide_usage=hide_usage
                )
            else:
                await relay_whole(exchange, caller, reply, ours, self.monotonic, self.house.max_copy)
            verdict = "failed" if reply.status in FAILURES or exchange.ending in ("cut", "timeout") else "good"
            if reply.status == 429:
                verdict = "busy"
        except UpstreamFailed:
            verdict = "failed"
            raise
        finally:
            reply.release()
            pick.done(verdict, first_byte_at=exchange.first_byte_at, retry_after=_retry_after(reply))

    async def _ask(
        self,
        exchange: Exchange,
        caller: Caller,
        speech: Speech,
        raw: bytes,
        body: Body,
        edits: list[tuple[int, int, bytes]],
        on_quiet: Callable[[], None] | None,
    ) -> tuple[Reply, routing.Pick]:
        """Ask one target; on failure before the first byte, one more, where there is another."""
        candidates = self.router.candidates(exchange.model, speech.wire)
        pick = next(candidates)
        while True:
            exchange.target = target = pick.target
            sent = raw
            if target.model != exchange.model:
                sent = splice(body.raw, [*edits, (*body.span("model"), _json_string(target.model))])
            exchange.sent_at = exchange.sent_at or self.monotonic()
            reply: Reply | None = None
            failure: UpstreamFailed | None = None
            try:
                if target.wire == speech.wire:
                    reply = await self.wire.send(
                        pick.upstream, speech, sent, caller.headers, caller.query, on_quiet, self.house.keepalive
                    )
                elif self.neighbours.translate is not None:
                    reply = TranslatedReply(*await self.neighbours.translate.send(exchange, sent, target))
                else:
                    raise RequestRefused(NO_TRANSLATION)
            except UpstreamFailed as error:
                failure = error
            except BaseException:
                pick.done("unknown")
                raise
            if reply is not None and reply.status not in RETRIED:
                return reply, pick
            another = next(candidates, None) if not caller.started else None
            candidates.close()
            candidates = iter(())  # type: ignore[assignment] - at most once
            if another is None:
                if reply is not None:
                    return reply, pick
                pick.done("failed")
                assert failure is not None
                raise failure
            if reply is not None:
                reply.release()
                pick.done("busy" if reply.status == 429 else "failed", retry_after=_retry_after(reply))
            else:
                pick.done("failed")
            pick = another

    def _wants_usage(self, exchange: Exchange) -> bool:
        key = exchange.key
        return key is not None and (key.tokens_per_minute is not None or key.usd_per_day is not None)

    def _our_headers(self, exchange: Exchange) -> ReplyHeaders:
        headers = [(b"x-metaspo-exchange", exchange.token)]
        if exchange.domain:
            served = exchange.served_domain or exchange.domain
            headers.append((b"x-metaspo-domain", served.encode("latin-1", "replace")))
        if exchange.version is not None:
            headers.append((b"x-metaspo-version", b"%d" % exchange.version))
        headers.append((b"x-metaspo-arm", exchange.arm.encode()))
        return headers

    async def _refuse(self, exchange: Exchange, caller: Caller, refusal: Refusal) -> None:
        exchange.status = refusal.status
        headers: ReplyHeaders = [JSON, *refusal.headers]
        if refusal.retry_after is not None:
            headers.append((b"retry-after", b"%d" % max(1, round(refusal.retry_after))))
        headers.append((b"x-metaspo-exchange", exchange.token or exchange.id.encode()))
        await caller.whole(refusal.status, headers, error_body(exchange.dialect, refusal))

    async def _end_early(self, exchange: Exchange, caller: Caller) -> None:
        """The exchange was cancelled: the caller hung up, or this process must end and the deadline for that has passed."""
        if caller.gone:
            exchange.ending = "caller_gone"
            exchange.status = exchange.status or 499
            return
        exchange.ending = "cut"
        if not caller.started:
            await self._refuse(exchange, caller, ENDING)
        elif exchange.stream:
            await caller.write(error_event(exchange.dialect, ENDING))
            await caller.finish()

    def _hand_on(self, exchange: Exchange, *, admitted: bool) -> None:
        """The caller has the answer. What fails from here on is only logged."""
        neighbours = self.neighbours
        try:
            if admitted:
                neighbours.limits.settle(exchange)
            neighbours.metrics.observe(exchange)
            if admitted:
                neighbours.recorder.offer(exchange)
        except Exception:
            log.exception("exchange %s was answered but not counted", exchange.id)


def _json_string(text: str) -> bytes:
    import msgspec

    return msgspec.json.encode(text)


def _retry_after(reply: Reply) -> float:
    for name, value in reply.headers:
        if name == b"retry-after":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 0.0
