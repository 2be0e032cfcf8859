"""The control plane over real HTTP, with the real registry on an embedded server."""

from __future__ import annotations

import asyncio
import json

import pytest
from control_house import NOW, House

from registry import Approval, Budget, Outcome, RegistryUnavailable, Sample, Task
from registry import Domain as DomainRecord

# --- who may ----------------------------------------------------------------------------------------------------------


async def test_the_control_plane_is_the_operators(house: House) -> None:
    assert (await house.get("/api/domains", role="")).status == 401
    assert (await house.get("/api/domains", role="caller")).error["code"] == "wrong_role"
    assert (await house.get("/api/domains", role="viewer")).status == 200
    assert (await house.post("/api/domains/support/abort", role="viewer")).status == 403
    assert (await house.post("/api/domains/support/abort")).error["code"] == "refused"  # allowed, but no canary runs
    wrong = await house.ask("GET", "/api/domains", role="", authorization="Bearer nobody")
    assert wrong.status == 401
    assert wrong.error["code"] == "invalid_api_key"
    assert "nobody" not in wrong.text
    assert (await house.ask("GET", "/api/domains", role="", x_api_key=house.keys["operator"])).status == 200


async def test_a_revoked_key_is_out_with_the_next_snapshot(house: House) -> None:
    made = await house.post("/api/keys", {"name": "second", "role": "operator"})
    assert made.status == 201
    house.keys["second"] = made.body["key"]
    await house.refresh()
    assert (await house.get("/api/keys", role="second")).status == 200
    assert (await house.ask("DELETE", f"/api/keys/{made.body['id']}")).status == 200
    await house.refresh()
    assert (await house.get("/api/keys", role="second")).status == 401


async def test_key_texts_are_shown_once_and_hashes_never(house: House) -> None:
    made = await house.post("/api/keys", {"name": "app", "domain": "support", "requests_per_minute": 5})
    assert made.body["requests_per_minute"] == 5
    listed = await house.get("/api/keys")
    assert made.body["key"] not in listed.text
    assert "sha256" not in listed.text
    assert [key["name"] for key in listed.body] == sorted(key["name"] for key in listed.body)
    assert (await house.post("/api/keys", {"name": "x", "domain": "nowhere"})).status == 404


# --- domains and versions ---------------------------------------------------------------------------------------------


async def test_domains_are_made_read_and_set(house: House) -> None:
    body = {
        "tasks": {
            "triage": {"user_prompt": "Which team?\n{question}", "judge": {"kind": "choice", "labels": ["a", "b"]}}
        }
    }
    made = await house.ask("PUT", "/api/domains/billing", body)
    assert made.status == 201
    assert made.body["deployment"]["stable"] is None
    again = await house.ask("PUT", "/api/domains/billing", {**body, "sample": {"share": 0.5}})
    assert again.status == 200
    assert again.body["settings"]["sample"] == {"share": 0.5, "per_hour": 500}
    assert again.body["settings"]["tasks"]["triage"]["judge"]["labels"] == ["a", "b"]
    assert [domain["name"] for domain in (await house.get("/api/domains")).body] == ["billing", "support"]
    assert [domain["name"] for domain in (await house.get("/api/domains?after=billing")).body] == ["support"]
    assert (await house.get("/api/domains/nowhere")).error["code"] == "not_found"
    prompt = await house.get("/api/domains/billing/tasks/triage/prompt")
    assert prompt.body == {
        "domain": "billing",
        "task": "triage",
        "user_prompt": "Which team?\n{question}",
        "adapted": False,
    }
    assert (await house.get("/api/domains/billing/tasks/none/prompt")).status == 404


async def test_what_the_config_file_names_is_read_only(house: House) -> None:
    await house.registry.put_domain(DomainRecord(name="fixed", read_only=True), actor="config file")
    refused = await house.ask("PUT", "/api/domains/fixed", {})
    assert (refused.status, refused.error["code"]) == (409, "read_only")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"taks": {}}, "taks"),
        ({"sample": {"share": 2}}, "sample.share"),
        ({"sample": {"share": "NaN"}}, "sample.share"),
        ({"tasks": {"t": {"user_prompt": "no slot"}}}, "tasks.t.user_prompt"),
        ({"locked": "\ud800"}, "locked"),
        ({"inject": "sideways"}, "inject"),
        ({"schedule": "61 3 * * 0"}, "schedule"),
    ],
)
async def test_bad_bodies_name_the_field(house: House, body: dict[str, object], param: str) -> None:
    answer = await house.ask("PUT", "/api/domains/billing", json.dumps(body).encode(), content_type="application/json")
    assert answer.status == 400
    assert answer.error["param"] == param


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"x"', b"\xff\xfe", b"[" * 20_000])
async def test_bodies_that_are_no_object(house: House, body: bytes) -> None:
    answer = await house.ask("POST", "/api/domains/support/promote", body, content_type="application/json")
    assert answer.status == 400
    assert answer.error["message"]


async def test_versions_are_added_once_and_read(house: House) -> None:
    added = await house.post("/api/domains/support/versions", {"system_prompt": "Third.", "why": "try", "parent": 1})
    assert (added.status, added.body["version"]) == (201, 3)
    assert added.body["hash"].startswith("sha256:")
    same = await house.post("/api/domains/support/versions", {"system_prompt": "Third."})
    assert same.body["version"] == 3
    read = await house.get("/api/domains/support/versions/3")
    assert read.body["system_prompt"] == "Third."
    assert read.body["lineage"]["author"] == "the operator"
    assert read.body["lineage"]["parent"] == 1
    listed = await house.get("/api/domains/support/versions")
    assert [version["version"] for version in listed.body] == [3, 2, 1]
    assert "Third." not in listed.text
    assert (await house.get("/api/domains/support/versions/9")).status == 404
    assert (await house.post("/api/domains/support/versions", {"system_prompt": " "})).status == 422
    assert (await house.post("/api/domains/support/versions", {"system_prompt": "x", "parent": 77})).status == 404


async def test_a_blocked_version_cannot_move(house: House) -> None:
    assert (await house.post("/api/domains/support/versions/2/block", {"why": "leaks"})).status == 200
    refused = await house.post("/api/domains/support/promote", {"version": 2})
    assert (refused.status, refused.error["code"]) == (422, "refused")
    assert "leaks" in refused.error["message"]


# --- moves ------------------------------------------------------------------------------------------------------------


async def test_promote_canary_rollback_abort(house: House) -> None:
    at = (await house.get("/api/domains/support/deployment")).body
    assert (at["stable"], at["canary"], at["share"], at["previous"], at["holdback"]) == (1, None, 0.0, None, None)
    canary = await house.post("/api/domains/support/canary", {"version": 2, "share": 0.1, "why": "looks better"})
    assert (canary.body["canary"], canary.body["share"], canary.body["epoch"]) == (2, 0.1, at["epoch"] + 1)
    aborted = await house.post("/api/domains/support/abort", {"why": "no"})
    assert aborted.body["canary"] is None
    promoted = await house.post("/api/domains/support/promote", {"version": 2, "why": "yes"})
    assert (promoted.body["stable"], promoted.body["previous"]) == (2, 1)
    back = await house.post("/api/domains/support/rollback", {"why": "harm"})
    assert (back.body["stable"], back.body["previous"]) == (1, None)
    assert (await house.post("/api/domains/support/rollback")).status == 422
    audit = (await house.get("/api/domains/support/audit?limit=4")).body
    assert [(entry["kind"], entry["why"]) for entry in audit] == [
        ("rollback", "harm"),
        ("promote", "yes"),
        ("abort", "no"),
        ("canary", "looks better"),
    ]
    assert audit[0]["actor"] == "the operator"
    older = (await house.get(f"/api/domains/support/audit?before={audit[-1]['seq']}")).body
    assert all(entry["seq"] < audit[-1]["seq"] for entry in older)
    exposition = (await house.get("/metrics", role="")).text
    assert 'metaspo_rollbacks_total{cause="operator",domain="support"} 1.0' in exposition


async def test_of_two_operators_one_is_told_what_moved(house: House) -> None:
    epoch = (await house.get("/api/domains/support/deployment")).body["epoch"]
    body = {"version": 2, "why": "better", "if_epoch": epoch}
    first, second = await asyncio.gather(
        house.post("/api/domains/support/promote", body),
        house.post("/api/domains/support/canary", {**body, "share": 0.1}),
    )
    lost = first if first.status == 409 else second
    assert sorted([first.status, second.status]) == [200, 409]
    assert lost.body["deployment"]["epoch"] == epoch + 1
    assert lost.body["moved"]["actor"] == "the operator"
    assert "better" in lost.error["message"]
    assert str(epoch + 1) in lost.error["message"]


async def test_the_same_request_id_moves_once(house: House) -> None:
    first = await house.post("/api/domains/support/promote", {"version": 2}, idempotency_key="a b/c")
    await house.post("/api/domains/support/rollback", {})
    again = await house.post("/api/domains/support/promote", {"version": 2}, idempotency_key="a b/c")
    assert again.status == 200
    assert first.body["epoch"] == again.body["epoch"]
    assert (await house.get("/api/domains/support/deployment")).body["stable"] == 1
    other_route = await house.post("/api/domains/support/canary", {"version": 2}, idempotency_key="a b/c")
    assert other_route.body["canary"] == 2


# --- runs -------------------------------------------------------------------------------------------------------------


async def test_optimize_writes_a_trigger_and_one_run_at_a_time(house: House) -> None:
    wishes = {"budget": {"calls": 50}, "why": "now", "unseen": ["triage"], "most": [1, 2, 3]}
    asked = await house.post("/api/domains/support/optimize", wishes)
    assert asked.status == 202
    run_id = asked.body["run"]
    busy = await house.post("/api/domains/support/optimize", {})
    assert (busy.status, busy.body["run"]) == (409, run_id)
    (trigger,) = await house.registry.take_triggers()
    assert (trigger.job, trigger.domain, trigger.args["run"], trigger.by) == (
        "optimize",
        "support",
        run_id,
        "the operator",
    )
    assert trigger.args["budget"]["calls"] == 50
    assert set(trigger.args) == {"run", "method", "budget", "unseen", "most"}
    run = (await house.get(f"/api/runs/{run_id}")).body
    assert (run["state"], run["incumbent"], run["asked_by"]) == ("queued", 1, "the operator")
    assert [r["id"] for r in (await house.get("/api/runs?domain=support")).body] == [run_id]
    assert (await house.get("/api/runs?domain=nowhere")).status == 404
    assert (await house.get("/api/runs/nothing")).status == 404
    assert (await house.post("/api/domains/nowhere/optimize", {})).status == 404


async def test_optimize_is_idempotent_by_request_id(house: House) -> None:
    first = await house.post("/api/domains/support/optimize", {}, x_request_id="once")
    again = await house.post("/api/domains/support/optimize", {}, x_request_id="once")
    assert (first.status, again.status) == (202, 202)
    assert first.body == again.body
    assert len(await house.registry.take_triggers()) == 1


async def test_events_are_followed_to_the_end(house: House) -> None:
    run = await house.registry.create_run("support", budget=Budget(calls=5))
    await house.registry.append_run_event(run.id, {"kind": "generation", "n": 1})

    async def finish() -> None:
        await asyncio.sleep(0.1)
        await house.registry.append_run_event(run.id, {"kind": "winner"})
        stored = await house.registry.get_run(run.id)
        await house.registry.update_run(type(stored)(**{**_fields(stored), "state": "done"}), fence=1)

    ending = asyncio.create_task(finish())
    answer = await house.get(f"/api/runs/{run.id}/events")
    await ending
    assert answer.headers["content-type"].startswith("text/event-stream")
    frames = [frame for frame in answer.text.split("\n\n") if frame]
    told = [json.loads(frame.split("data: ", 1)[1]) for frame in frames]
    assert [event.get("kind") for event in told[:2]] == ["generation", "winner"]
    assert frames[-1].startswith("event: end")
    assert told[-1]["state"] == "done"
    first_id = frames[0].split("\n")[0].removeprefix("id: ")
    rest = await house.ask("GET", f"/api/runs/{run.id}/events", last_event_id=first_id)
    assert '"generation"' not in rest.text
    assert '"winner"' in rest.text
    assert (await house.get("/api/runs/nothing/events")).status == 404


def _fields(record: object) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__struct_fields__}  # type: ignore[attr-defined]


# --- what was kept ----------------------------------------------------------------------------------------------------


def sample(number: int, **more: object) -> Sample:
    known = {
        "domain": "support",
        "task": "triage",
        "at": NOW + number,
        "key": "k",
        "unit": "u",
        "version": 1,
        "arm": "stable",
    }
    return Sample(id=f"s{number}", **{**known, **more})  # type: ignore[arg-type]


async def test_samples_scores_and_labels(house: House) -> None:
    outcomes = [
        Outcome(
            domain="support", arm="stable", version=1, unit=f"u{n}", at=NOW, latency=0.5, cost=0.01, exchange=f"s{n}"
        )
        for n in range(4)
    ]
    await house.registry.record([sample(n) for n in range(4)], outcomes)
    listed = (await house.get("/api/domains/support/samples?limit=2")).body
    assert [s["id"] for s in listed] == ["s3", "s2"]
    assert (await house.get("/api/domains/support/samples?task=other")).body == []
    assert (await house.get("/api/domains/nowhere/samples")).status == 404
    for n in range(4):
        await house.registry.set_score(f"s{n}", 0.5 if n else 1.0, "judge")
    (score,) = (await house.get("/api/domains/support/scores")).body
    assert (score["version"], score["arm"], score["requests"], score["scored"]) == (1, "stable", 4, 4)
    assert score["score"] == pytest.approx(0.625)
    assert score["low"] < 0.625 < score["high"]
    assert score["latency_mean"] == pytest.approx(0.5)
    domain = (await house.get("/api/domains/support")).body
    assert domain["scores"] == [score]
    labelled = await house.post("/api/samples/s1/label", {"score": 0.0})
    assert labelled.status == 200
    assert labelled.body["label"] == 0.0
    assert (await house.post("/api/samples/none/label", {"score": 0.0})).status == 404
    assert (await house.post("/api/samples/s1/label", {"score": 2})).status == 400
    assert (await house.post("/api/samples/s1/label", {"score": 1}, role="viewer")).status == 403


async def test_approvals_are_decided_once(house: House) -> None:
    approval = Approval(id="a1", domain="support", version=2, kind="canary", asked_at=NOW, reason="gate passed")
    await house.registry.put_approval(approval)
    assert [a["id"] for a in (await house.get("/api/approvals")).body] == ["a1"]
    decided = await house.post("/api/approvals/a1", {"decision": "approved", "why": "fine"})
    assert (decided.body["decision"], decided.body["by"]) == ("approved", "the operator")
    assert (await house.get("/api/approvals")).body == []
    assert [a["id"] for a in (await house.get("/api/approvals?state=decided")).body] == ["a1"]
    other = await house.post("/api/approvals/a1", {"decision": "rejected"})
    assert other.status == 409
    assert "the operator" in other.error["message"]
    assert (await house.post("/api/approvals/none", {"decision": "rejected"})).status == 404


async def test_jobs_show_what_waits_and_runs(house: House) -> None:
    await house.post("/api/domains/support/optimize", {})
    jobs = (await house.get("/api/jobs")).body
    assert jobs["waiting"] == 1
    assert [run["state"] for run in jobs["runs"]] == ["queued"]


# --- errors, health, description --------------------------------------------------------------------------------------


async def test_no_error_is_the_frameworks(house: House) -> None:
    assert (await house.get("/api/nothing")).error["code"] == "unknown_url"
    wrong = await house.ask("PATCH", "/api/domains/support/promote", {})
    assert (wrong.status, wrong.error["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "POST")
    assert (await house.get("/api/domains/UPPER")).error["param"] == "d"
    assert (await house.get("/api/domains/support/versions/x")).error["param"] == "n"
    assert (await house.get("/api/domains?limit=0")).error["param"] == "limit"


async def test_a_registry_that_is_down_says_so_and_health_stays(house: House) -> None:
    house.down = True
    answer = await house.get("/api/domains")
    assert (answer.status, answer.error["code"]) == (503, "registry_unavailable")
    assert answer.headers["retry-after"] == "2"
    assert (await house.get("/healthz", role="")).body["status"] == "ok"
    ready = await house.get("/readyz", role="")
    assert (ready.status, ready.body["registry"]) == (200, "down")


async def test_bodies_are_bounded_before_any_key_is_asked_for(house: House) -> None:
    large = b'{"system_prompt": "' + b"x" * 5_000_000 + b'"}'
    answer = await house.ask("POST", "/api/domains/support/versions", large, role="", content_type="application/json")
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")


async def test_health_answers_head_and_nothing_is_cached(house: House) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await house.ask("HEAD", path, role="")).status == 200
    assert (await house.get("/api/keys")).headers["cache-control"] == "no-store"


async def test_a_registry_that_fails_while_a_search_is_followed_ends_the_stream(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await house.registry.create_run("support")

    async def broken(*_args: object) -> None:
        raise RegistryUnavailable("gone")

    monkeypatch.setattr(house.registry, "run_events", broken)
    answer = await house.get(f"/api/runs/{run.id}/events")
    assert answer.text == 'event: error\ndata: {"message":"gone"}\n\n'


async def test_a_fault_of_ours_has_the_shape_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_name: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(house.registry, "get_domain", broken)
    answer = await house.get("/api/domains/support")
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert "ZeroDivision" not in answer.text


async def test_the_description_covers_both_planes(house: House) -> None:
    document = (await house.get("/openapi.json", role="")).body
    for path in ("/v1/chat/completions", "/v1/feedback", "/api/domains/{d}/promote", "/metrics", "/readyz"):
        assert path in document["paths"], path
    assert "HTTPValidationError" not in json.dumps(document)
    refs = set(_refs(document))
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert refs <= known, refs - known
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation.get("description"), operation
            assert operation.get("tags"), operation
    page = await house.get("/docs", role="")
    assert page.headers["content-type"].startswith("text/html")
    assert "/api/domains/{d}/promote" in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text


def _refs(node: object) -> list[str]:
    if isinstance(node, dict):
        return [*([node["$ref"]] if "$ref" in node else []), *(ref for value in node.values() for ref in _refs(value))]
    return [ref for value in node for ref in _refs(value)] if isinstance(node, list) else []


async def test_a_task_prompt_that_was_adapted(house: House) -> None:
    task = Task(user_prompt="{question}", adapted_prompt="Think. {question}")
    await house.registry.put_domain(DomainRecord(name="support", tasks={"t": task}), actor="test")
    prompt = (await house.get("/api/domains/support/tasks/t/prompt")).body
    assert (prompt["user_prompt"], prompt["adapted"]) == ("Think. {question}", True)
