"""What may move, and how. Pure rules: a deployment and a wish in, the next deployment (or a refusal) out.

A version never changes and has no status; a domain's *deployment* points at versions::

    stable    what everybody gets          previous  what stable was before; rollback returns there, once
    canary    a challenger, on ``share``   holdback  an old version kept on a small share, to see what a promotion was
    worth

    promote(n)      stable -> previous, n -> stable; ends a running canary (its control arm would be gone)
    canary(n, s)    n -> canary on share s, with an equal-size control on stable; starts a new experiment
    set_share(s)    the running canary's share; the experiment and everybody's arm stay
    abort()         the canary ends, stable stays
    rollback()      previous -> stable; ends a running canary; previous is then empty, so that two people who both press
                    it do not put the bad version back
    set_holdback    a version and its share, or none; its units are drawn before a canary's, whose shares are those of
                    the rest, so that a canary may take any share beside it

Every move adds one to ``epoch``. A wish that is already fulfilled changes nothing (``next`` equals ``now``): nothing is
written or audited. The store (``deployments.py``) applies a move by compare-and-set on the epoch, in one script that
also appends the audit entry and tells the gateways.
"""

from __future__ import annotations

from msgspec.structs import replace

from registry.errors import Refused
from registry.records import Deployment

LARGEST_SHARE = 0.5
"""A canary keeps a control of its own size, so neither can be more than half."""


def promote(now: Deployment, version: int, *, at: float) -> Deployment:
    """``version`` becomes stable. Raises nothing: what is already stable stays as it is."""
    if now.stable == version:
        return now
    return _moved(
        now,
        at,
        stable=version,
        previous=now.stable,
        canary=None,
        share=0.0,
        experiment="",
        **_without_holdback(now, version),
    )


def canary(now: Deployment, version: int, share: float, *, experiment: str, at: float) -> Deployment:
    """``version`` gets ``share`` of the traffic as the experiment ``experiment``. Raises Refused."""
    if now.stable is None:
        raise Refused(f"{now.domain} has no stable version to compare with: promote one first.")
    if now.stable == version:
        raise Refused(f"Version {version} of {now.domain} is already stable: a canary must be another version.")
    if now.canary is not None and now.canary != version:
        raise Refused(
            f"Version {now.canary} of {now.domain} is already on canary (share {now.share:g}):"
            " promote or abort it first."
        )
    _check_share(share)
    if now.canary == version:
        return now if now.share == share else _moved(now, at, share=share)
    return _moved(now, at, canary=version, share=share, experiment=experiment)


def set_share(now: Deployment, share: float, *, at: float) -> Deployment:
    """The running canary gets ``share``. Raises Refused."""
    if now.canary is None:
        raise Refused(f"{now.domain} has no canary whose share could change.")
    _check_share(share)
    return now if now.share == share else _moved(now, at, share=share)


def abort(now: Deployment, *, at: float) -> Deployment:
    """The canary ends without promotion. Raises Refused when there is none: it may have been promoted meanwhile."""
    if now.canary is None:
        raise Refused(f"{now.domain} has no canary to abort; stable is {_shown(now.stable)}.")
    return _moved(now, at, canary=None, share=0.0, experiment="")


def rollback(now: Deployment, *, at: float) -> Deployment:
    """Stable returns to previous. Raises Refused when there is none."""
    if now.previous is None:
        raise Refused(
            f"{now.domain} has no previous version to return to: promote the version that you want"
            " (`metaspo prompts history` shows what served before)."
        )
    return _moved(
        now,
        at,
        stable=now.previous,
        previous=None,
        canary=None,
        share=0.0,
        experiment="",
        **_without_holdback(now, now.previous),
    )


def set_holdback(now: Deployment, version: int | None, share: float, *, at: float) -> Deployment:
    """Keep ``share`` of the units on ``version``, or end the holdback with None. Raises Refused."""
    if version is None or share == 0:
        if now.holdback is None:
            return now
        return _moved(now, at, holdback=None, holdback_share=0.0)
    if now.stable is None:
        raise Refused(f"{now.domain} has no stable version: there is nothing to hold back from.")
    if version == now.stable:
        raise Refused(f"Version {version} of {now.domain} is stable: a holdback must be another version.")
    if not 0 < share < 1:
        raise Refused(f"A holdback's share lies above 0 and below 1, not {share:g}.")
    if (now.holdback, now.holdback_share) == (version, share):
        return now
    return _moved(now, at, holdback=version, holdback_share=share)


def live_versions(deployment: Deployment) -> list[int]:
    """The versions that a gateway serves under this deployment, without repetition."""
    pointers = (deployment.stable, deployment.canary, deployment.holdback)
    return list(dict.fromkeys(number for number in pointers if number is not None))


def same_pointers(one: Deployment, other: Deployment) -> bool:
    """True when both serve the same: epochs, times and the salt of the experiment aside."""
    unlike = {"epoch": 0, "moved_at": 0.0, "experiment": ""}
    return replace(one, **unlike) == replace(other, **unlike)


def describe(before: Deployment | None, after: Deployment | None) -> str:
    """What a move did, in words: ``stable 1 -> 2, previous none -> 1``."""
    if before is None or after is None:
        return ""
    changes = []
    for name in ("stable", "canary", "share", "previous", "holdback", "holdback_share"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            changes.append(f"{name} {_shown(old)} -> {_shown(new)}")
    return ", ".join(changes)


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _check_share(share: float) -> None:
    if not 0 < share <= LARGEST_SHARE:
        raise Refused(
            f"A canary's share lies above 0 and at most {LARGEST_SHARE:g} (its control is as large), not {share:g}."
        )


def _without_holdback(now: Deployment, stable: int) -> dict[str, object]:
    return {"holdback": None, "holdback_share": 0.0} if now.holdback == stable else {}


def _moved(now: Deployment, at: float, **changes: object) -> Deployment:
    # Time never runs backwards in a domain's history, whatever the clocks of two operators say.
    return replace(now, epoch=now.epoch + 1, moved_at=max(at, now.moved_at), **changes)
