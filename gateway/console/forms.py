"""The console's forms: moves of the pointers, and everything else that a button changes."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from gateway.console import changes, views
from gateway.console.console import ROOT, Console, inside, to
from gateway.console.session import Visitor
from registry import Budget, Refused, Registry, RegistryError, Role, Trigger

Text = Annotated[str, Form(max_length=4000)]
DECISIONS: dict[str, Literal["approved", "rejected"]] = {"approved": "approved", "rejected": "rejected"}
ROLES: dict[str, Role] = {"caller": "caller", "operator": "operator", "viewer": "viewer"}
MOVES = ("promote", "canary", "rollback", "abort")


def move_routes(router: APIRouter, console: Console) -> None:
    @router.get("/domains/{d}/move")
    async def confirm(
        request: Request, d: str, action: str = "promote", version: int | None = None, share: float = 0.05
    ) -> Response:
        if action not in MOVES:
            return console.problem(
                404, "Not here", f"There is no move {action[:40]!r}: promote, canary, rollback or abort."
            )
        return await console.page(
            request,
            lambda registry, _: changes.confirm_page(
                registry, d, action, version, share, now_s=console.control.clock()
            ),
        )

    @router.post("/domains/{d}/move")
    async def move(
        request: Request,
        d: str,
        action: Text = "",
        version: Annotated[int | None, Form()] = None,
        share: Annotated[float, Form(ge=0, le=1)] = 0.05,
        epoch: Annotated[int | None, Form()] = None,
        why: Text = "",
        csrf: Text = "",
        once: Text = "",
    ) -> Response:
        async def go(registry: Registry, who: Visitor) -> tuple[str, str]:
            common: dict[str, Any] = {
                "actor": who.name,
                "why": why,
                "if_epoch": epoch,
                "request_id": f"console:{who.key.id}:{once}" if once else "",
            }
            if action == "promote" and version is not None:
                await registry.promote(d, version, **common)
                said = f"Version {version} is stable: the next requests carry it."
            elif action == "canary" and version is not None:
                await registry.canary(d, version, share, **common)
                said = f"Version {version} is on canary with {share:.0%} of the units."
            elif action == "rollback":
                moved = await registry.rollback(d, **common)
                said = f"Rolled back: version {moved.stable} is stable."
            elif action == "abort":
                await registry.abort(d, **common)
                said = "The canary has ended without promotion."
            else:
                raise Refused(f"{action!r} needs a version, or is no move.")
            console.control.metrics.moved(d, action)
            return to(f"/domains/{quote(d)}", said)

        return await console.act(request, csrf, go)


def form_routes(router: APIRouter, console: Console) -> None:
    @router.get("/domains/{d}/optimize")
    async def confirm_search(request: Request, d: str) -> Response:
        return await console.page(request, lambda registry, _: changes.optimize_page(registry, d))

    @router.post("/domains/{d}/optimize")
    async def optimize(request: Request, d: str, why: Text = "", csrf: Text = "", once: Text = "") -> Response:
        async def go(registry: Registry, who: Visitor) -> tuple[str, str]:
            domain = await registry.get_domain(d)
            budget: Budget = domain.budget
            run = await registry.create_run(
                d, "metaspo", asked_by=who.name, why=why, budget=budget, request_id=f"console:{who.key.id}:{once}"
            )
            await registry.put_trigger(
                Trigger(
                    id=f"optimize-{run.id}",
                    job="optimize",
                    domain=d,
                    at=console.control.clock(),
                    by=who.name,
                    why=why,
                    args={"run": run.id, "method": "metaspo"},
                )
            )
            return to(f"/runs/{quote(run.id)}", "The search is asked for; a worker takes it up.")

        return await console.act(request, csrf, go)

    @router.post("/approvals/{id}")
    async def decide(request: Request, id: str, decision: Text = "", why: Text = "", csrf: Text = "") -> Response:
        async def go(registry: Registry, who: Visitor) -> tuple[str, str]:
            word = DECISIONS.get(decision)
            if word is None:
                raise Refused("Say approved or rejected.")
            await registry.decide_approval(id, word, by=who.name, why=why)
            return to("/approvals", f"{decision.capitalize()}.")

        return await console.act(request, csrf, go)

    @router.post("/samples/{id}/label")
    async def label(
        request: Request, id: str, score: Annotated[float, Form(ge=0, le=1)], back: Text = ROOT, csrf: Text = ""
    ) -> Response:
        async def go(registry: Registry, who: Visitor) -> tuple[str, str]:
            await registry.label_sample(id, score, who.name)
            return inside(back), ""

        return await console.act(request, csrf, go)

    @router.post("/keys")
    async def create_key(
        request: Request, name: Text = "", role: Text = "caller", domain: Text = "", csrf: Text = ""
    ) -> Response:
        try:
            sessions = await console.sessions()
            visitor = sessions.visitor(request)
            if visitor is None or not visitor.may_move or not sessions.sent_by(visitor, csrf):
                return console.problem(
                    403, "No key was made", "Sign in with an operator's key and use the form on the keys page.", visitor
                )
            registry = await console.control.registry()
            known = ROLES.get(role)
            if known is None or not name.strip():
                raise Refused("A key needs a name and a role: caller, operator or viewer.")
            if domain:
                await registry.get_domain(domain)
            _, text = await registry.create_key(name.strip(), known, domain or None)
            context = await views.keys_page(registry, may_move=True)
        except RegistryError as error:
            return console.failed(request, error)
        context.new_key = text  # shown once: on this page, and nowhere else
        return console.render.page(context, visitor)

    @router.post("/keys/{id}/revoke")
    async def revoke_key(request: Request, id: str, csrf: Text = "") -> Response:
        async def go(registry: Registry, who: Visitor) -> tuple[str, str]:
            await registry.revoke_key(id, who.name)
            return to("/keys", "The key is revoked: it stops working everywhere within a second.")

        return await console.act(request, csrf, go)
