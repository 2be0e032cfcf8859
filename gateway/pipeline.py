"""The story of one request.

    shed -> authenticate -> read the body -> read the dialect -> domain, task, unit, arm -> limits
         -> compose the system prompt -> ask an upstream (again elsewhere at most once, before the first byte)
         -> relay -> *the caller has the answer* -> settle, count, offer for learning

The request path reads memory only: the snapshot that was compiled when it arrived, the keys in it, and counters. A
failure of anything else (registry, recorder, metrics) never changes or delays a reply.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from random import Random

from gateway import assignment, json_word
from gateway.assignment import Plan, Serving
from gateway.body import Body, decompress, parse
from gateway.caller import Caller, ReplyHeaders
from gateway.cors import allowed
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
from gateway.lanes import Asked, Lanes, retry_after
from gateway.refusals import BAD_KEY, ENDING, INTERNAL, NO_KEY, NOT_JSON, OVERLOADED
from gateway.relay import is_event_stream, relay_stream, relay_whole, say_failure, stream_headers
from gateway.request_log import log_exchange
from gateway.routing import Router, Verdict
from gateway.settings import House
from gateway.wire import Reply, WireLane
from registry import KeyRecord

log = logging.getLogger("gateway")

FAILURES = frozenset((500, 502, 503, 504, 529))
"""Answers that count against a target's health."""
JSON = (b"content-type", b"application/json")
SSE = (b"content-type", b"text/event-stream; charset=utf-8")


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
        self.router = Router(house, monotonic, random)
        self.lanes = Lanes(wire, lambda: neighbours.translate, monotonic)
        self.in_flight = 0
        self._finished: list[tuple[Exchange, bool]] = []
        self._call_soon = wire.watch.loop.call_soon
        self._ids = map((f"{random.getrandbits(48):012x}" + "{:x}").format, itertools.count(1))

    def reload(self, house: House) -> None:
        """New settings, for requests that begin from now on."""
        self.house = house
        self.router = Router(house, self.monotonic, self.random, known=self.router)
        self.wire.forget_lines()

    async def carry(self, caller: Caller, speech: Speech) -> None:
        """Carry one request from its head to the end of its reply. Never raises but for cancellation."""
        clock, monotonic = self.clock, self.monotonic
        exchange = Exchange(next(self._ids), speech.name, clock(), monotonic())
        admitted = False
        self.in_flight += 1
        try:
            self._shed()
            exchange.key = self._authenticate(caller)
            body = parse(await self._read(caller), self.house.max_depth)
            speech.read(body)
            plan = self._describe(exchange, caller, speech, body)
            self._admit(exchange)
            admitted = True
            asked = self._compose(exchange, caller, speech, body, plan)
            await self._answer(asked)
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
            exchange.ended_at = monotonic()
            self._finish(exchange, admitted=admitted)

    # --- the steps, in order ------------------------------------------------------------------------------------------

    def _shed(self) -> None:
        """Above the limit of this worker a request is refused at once: nothing is queued."""
        if self.in_flight > self.house.max_in_flight:
            raise RequestRefused(OVERLOADED)

    def _authenticate(self, caller: Caller) -> KeyRecord:
        head = caller.head
        key = self.neighbours.auth.caller(head.token, head.digest)
        if key is None:
            raise RequestRefused(BAD_KEY if head.token else NO_KEY)
        return key

    async def _read(self, caller: Caller) -> bytes:
        head = caller.head
        if not head.is_json:
            raise RequestRefused(NOT_JSON)
        raw = caller.arrived(self.house.max_body)
        if raw is None:
            raw = await caller.body(self.house.max_body)
        return raw if head.encoding is None else decompress(raw, head.encoding, self.house.max_body)

    def _describe(self, exchange: Exchange, caller: Caller, speech: Speech, body: Body) -> Plan | None:
        """Fill in what the request says of itself; find its domain, task and unit."""
        head = caller.head
        exchange.request = body.raw
        exchange.model = body.model
        exchange.stream = body.flag("stream")
        if head.wishes:
            exchange.sample_off = head.sample_off
            exchange.idempotency_key = head.idempotency_key
            exchange.retry = head.retry
            exchange.traceparent = head.traceparent
        exchange.estimate = len(body.raw) // 4
        serving = self.serving
        if not serving.plans:
            return None
        plan = serving.resolve(exchange, head, speech, body)
        if plan is not None:
            assignment.find_unit(exchange, head, speech, body)
        return plan

    def _admit(self, exchange: Exchange) -> None:
        assert exchange.key is not None
        refusal = self.neighbours.limits.admit(exchange.key, exchange.estimate)
        if refusal is not None:
            raise RequestRefused(refusal)

    def _compose(self, exchange: Exchange, caller: Caller, speech: Speech, body: Body, plan: Plan | None) -> Asked:
        """Choose the arm and write the edits that make its prompt the leading one."""
        asked = Asked(exchange, caller, speech, body)
        if plan is not None and speech.injects and caller.head.inject:
            assert exchange.key is not None
            arm, prompt = plan.choose(exchange.key.id, exchange.unit)
            edits = None if prompt is None else speech.inject(body, prompt, only_fill=plan.fill)
            if prompt is not None and edits is not None:
                asked.edits = edits
                exchange.arm = arm
                exchange.version = prompt.number
                exchange.served_domain = plan.served_domain
                if "response_format" in body.values:
                    json_word.notice(exchange, body, edits)
        exchange.token = self.neighbours.ids.issue(exchange)
        fields = assignment.NO_PLAN if plan is None else plan.reply_fields(exchange.arm, exchange.version)
        asked.ours = [(b"x-metaspo-exchange", exchange.token), *fields]
        if self.house.cors:
            asked.ours += allowed(self.house.cors, caller.head.origin)
        if exchange.stream:
            self._prepare_stream(asked)
        return asked

    def _prepare_stream(self, asked: Asked) -> None:
        exchange, caller = asked.exchange, asked.caller
        waiting = stream_headers([SSE], asked.ours)

        def on_quiet() -> None:
            exchange.status = 200
            caller.remark(waiting)

        asked.on_quiet = on_quiet
        if _counts_tokens(exchange.key) and (wish := asked.speech.asks_usage(asked.body)) is not None:
            asked.edits = [*asked.edits, wish]
            asked.hide_usage = True

    async def _answer(self, asked: Asked) -> None:
        """Ask, and pass on what comes back."""
        exchange, caller = asked.exchange, asked.caller
        reply, pick = await self.lanes.ask(asked, self.router, self.house.keepalive)
        verdict: Verdict = "unknown"
        try:
            if caller.started:
                _keep_promise(reply)
            exchange.answered_by = "upstream"
            if exchange.stream and reply.status == 200 and is_event_stream(reply.headers):
                await relay_stream(asked, reply, self.monotonic, self.house.max_copy)
            else:
                await relay_whole(asked, reply, self.monotonic, self.house.max_copy)
            verdict = _verdict(reply, exchange)
        except UpstreamFailed:
            verdict = "failed"
            raise
        finally:
            reply.release()
            pick.done(
                verdict,
                first_byte_at=exchange.first_byte_at,
                retry_after=retry_after(reply) if verdict == "busy" else 0.0,
            )

    # --- other endings ------------------------------------------------------------------------------------------------

    async def _refuse(self, exchange: Exchange, caller: Caller, refusal: Refusal) -> None:
        exchange.status = refusal.status
        headers: ReplyHeaders = [JSON, *refusal.headers]
        if refusal.retry_after is not None:
            headers.append((b"retry-after", b"%d" % max(1, round(refusal.retry_after))))
        headers.append((b"x-metaspo-exchange", exchange.token or exchange.id.encode()))
        if self.house.cors:
            headers += allowed(self.house.cors, caller.head.origin)
        try:
            await caller.whole(refusal.status, headers, error_body(exchange.dialect, refusal))
        except CallerGone:
            exchange.ending = "caller_gone"

    async def _end_early(self, exchange: Exchange, caller: Caller) -> None:
        """The exchange was cancelled: the caller hung up, or this process must end and the deadline for that is
        past."""
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

    def _finish(self, exchange: Exchange, *, admitted: bool) -> None:
        """The caller has the answer. What is left is done once for all that ended in this turn of the loop."""
        if not self._finished:
            self._call_soon(self._hand_on)
        self._finished.append((exchange, admitted))

    def _hand_on(self) -> None:
        """Settle, count, offer for learning. What fails here is only logged."""
        finished, self._finished = self._finished, []
        limits, metrics, recorder = self.neighbours.limits, self.neighbours.metrics, self.neighbours.recorder
        for exchange, admitted in finished:
            try:
                if admitted:
                    limits.settle(exchange)
                metrics.observe(exchange)
                if admitted:
                    recorder.offer(exchange)
                if self.house.log_requests:
                    log_exchange(exchange)
            except Exception:
                log.exception("exchange %s was answered but not counted", exchange.id)


def _keep_promise(reply: Reply) -> None:
    """A comment has already told the caller 200: another status can only be an error event now."""
    if reply.status != 200:
        raise UpstreamFailed(f"The upstream answered with status {reply.status}.", started=True)


def _counts_tokens(key: KeyRecord | None) -> bool:
    return key is not None and (key.tokens_per_minute is not None or key.usd_per_day is not None)


def _verdict(reply: Reply, exchange: Exchange) -> Verdict:
    if reply.status == 429:
        return "busy"
    return "failed" if reply.status in FAILURES or exchange.ending in ("cut", "timeout") else "good"
