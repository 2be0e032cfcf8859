"""What the gate is told of a domain's past."""

from __future__ import annotations

import msgspec

from jobs import calibrate, past
from registry import Registry, Run
from tests.jobs.conftest import shop, task, with_shop


def test_only_runs_that_showed_something_to_the_holdout_are_attempts() -> None:
    gated = Run(id="a", domain="shop", state="done", gate={"outcome": "INCONCLUSIVE"}, ended_at=10.0)
    assert past.gated_since([gated, msgspec.structs.replace(gated, gate=None)], 5.0) == 1
    assert past.gated_since([gated], 10.0) == 0


def test_the_control_limit_of_a_flip_rate() -> None:
    assert past.highest_allowed([0.0, 0.0, 0.0]) < 0.06
    assert 0.2 < past.highest_allowed([0.1, 0.08, 0.12]) < 0.26
    assert past.highest_allowed([1.0]) == 1.0


async def _calibrated(registry: Registry, rates: list[float], judges: list[str]) -> None:
    for n, rate in enumerate(rates):
        detail = {"flip_rate": rate, "judges": judges, "agreement": {"n": 0, "good": 0}}
        await registry.append_audit("shop", calibrate.KIND, "jobs", "measured", detail, request_id=f"c{rate}{n}")


async def test_a_judge_has_noise_once_it_has_a_past(registry: Registry) -> None:
    domain = await with_shop(registry, shop(judge_model="judge", tasks={"a": task(kind="rubric", labels=())}))
    mine = calibrate.judges(domain)
    await _calibrated(registry, [0.5, 0.5, 0.5], ["judge:another"])
    await _calibrated(registry, [0.02, 0.04, 0.0], mine)
    assert await past.judge_noise(registry, domain) is None, "two earlier ones of this judge are no history"
    await _calibrated(registry, [0.3], mine)
    noise = await past.judge_noise(registry, domain)
    assert noise is not None and noise[0] == 0.3 and noise[1] < 0.15, "it has moved: the gate will not judge"
