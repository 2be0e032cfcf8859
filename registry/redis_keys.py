"""The name of every Redis key of ours, in one place.

``metaspo:<plane>:{<tag>}:<what>[:<more>]``

* *plane* says who may write, so that three ACL patterns suffice: ``c`` control (versions, pointers, keys: the data
plane
  reads), ``t`` traffic (samples, outcomes, votes, usage: the data plane writes), ``j`` jobs (runs, datasets, leases,
  triggers: the data plane neither reads nor writes).
* *tag* is what Redis Cluster hashes: a domain's keys live in one slot, so that one script can change them together.
What
  belongs to the whole fleet lives under ``{*}``; a domain name can never be ``*``.

Free text (task names, experiment ids, unit ids) only ever stands after the tag, where braces mean nothing to Redis.
"""

from __future__ import annotations

import re
from typing import Final

from registry.errors import Refused

PREFIX: Final = "metaspo"
FLEET: Final = "*"
"""The tag of fleet-wide keys, and the ``domain`` of audit entries that belong to no single domain."""

_DOMAIN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def domain_name(name: str) -> str:
    """The name itself, when it can be one: lower case letters, digits, ``._-``; at most 63. Raises Refused."""
    if not _DOMAIN_NAME.fullmatch(name):
        raise Refused(
            f"{name[:80]!r} cannot name a domain: use 1 to 63 lower case letters, digits, '.', '_' or '-',"
            " beginning with a letter or digit."
        )
    return name


class Keys:
    """Builds key names under one prefix, so that several houses (or tests) can share a server."""

    def __init__(self, prefix: str = PREFIX) -> None:
        self.prefix = prefix
        self.moved = f"{prefix}:moved"
        """Pub/sub channel: one message ``<fleet epoch> <name> [<name> ...]`` for each change."""
        fleet = f"{prefix}:c:{{{FLEET}}}"
        self.schema = f"{fleet}:schema"
        """String: number of the stored schema."""
        self.epoch = f"{fleet}:epoch"
        """String: fleet epoch, grows by one with every change that gateways must see."""
        self.changes = f"{fleet}:changes"
        """Sorted set: name of a changed domain (or ``*`` for the keys) -> fleet epoch of its last change."""
        self.dirty = f"{fleet}:dirty"
        """Hash (Cluster only): ``<domain>:<writer>`` -> when a change began whose epoch is not yet bumped."""
        self.domains = f"{fleet}:domains"
        """Set of domain names."""
        self.keyring = f"{fleet}:keys"
        """Hash: hash of a gateway key's text -> KeyRecord."""
        self.fleet_audit = f"{fleet}:audit"
        """Stream: audit of what belongs to no single domain. Entry id ``<seq>-0``."""
        self.signer = f"{fleet}:signer"
        """String: fingerprint of the public key under which this registry's versions are signed."""
        jobs = f"{prefix}:j:{{{FLEET}}}"
        self.trigger_queue = f"{jobs}:triggers"
        """Sorted set: trigger id -> time from which it may be taken."""
        self.trigger_bodies = f"{jobs}:trigger-bodies"
        """Hash: trigger id -> Trigger."""
        self.approvals = f"{jobs}:approvals"
        """Hash: approval id -> Approval."""

    # --- control plane: the data plane reads ----------------------------------------------------------------------

    def _c(self, domain: str, what: str) -> str:
        return f"{self.prefix}:c:{{{domain}}}:{what}"

    def live(self, domain: str) -> str:
        """Hash, all a gateway needs: ``domain``, ``deployment``, ``epoch``, and ``v:<n>`` per live version."""
        return self._c(domain, "live")

    def versions(self, domain: str) -> str:
        """Hash: number -> Version."""
        return self._c(domain, "versions")

    def hashes(self, domain: str) -> str:
        """Hash: content hash -> number."""
        return self._c(domain, "hashes")

    def blocked(self, domain: str) -> str:
        """Hash: number -> why it may never be served again."""
        return self._c(domain, "blocked")

    def audit(self, domain: str) -> str:
        """Stream of AuditEntry; entry id ``<seq>-0``, so Redis itself holds it append-only and gapless."""
        return self.fleet_audit if domain == FLEET else self._c(domain, "audit")

    def moves(self, domain: str) -> str:
        """Capped sorted set: zero-padded seq of each audited move -> its time; answers what served when."""
        return self._c(domain, "moves")

    def request(self, domain: str, request_id: str) -> str:
        """String with TTL: what a request id already brought about."""
        return self._c(domain, f"request:{request_id}")

    def secret(self, name: str) -> str:
        """String: a random fleet secret, made once. On the traffic plane: a gateway may be the first to need it."""
        return f"{self.prefix}:t:{{{FLEET}}}:secret:{name}"

    # --- traffic plane: the data plane writes ---------------------------------------------------------------------

    def _t(self, domain: str, what: str) -> str:
        return f"{self.prefix}:t:{{{domain}}}:{what}"

    def tasks(self, domain: str) -> str:
        """Sorted set: task name -> time of its last kept sample."""
        return self._t(domain, "tasks")

    def sample(self, domain: str, sample_id: str) -> str:
        """String with TTL: Sample."""
        return self._t(domain, f"sample:{sample_id}")

    def times(self, domain: str, task: str) -> str:
        """Sorted set: sample id -> time of the exchange."""
        return self._t(domain, f"times:{task}")

    def reservoir(self, domain: str, which: str, task: str) -> str:
        """Sorted set: sample id -> priority. The smallest stay. ``which``: ``representative`` or ``failures``."""
        return self._t(domain, f"{which}:{task}")

    def threshold(self, domain: str) -> str:
        """Hash: ``<reservoir>:<task>`` -> smallest priority ever turned away, from which inclusion follows."""
        return self._t(domain, "threshold")

    def locator(self, sample_id: str) -> str:
        """String with TTL: the domain that holds a sample."""
        return f"{self.prefix}:t:{{{sample_id}}}:where"

    def vote(self, domain: str, exchange: str) -> str:
        """String with TTL: the last Feedback of an exchange."""
        return self._t(domain, f"vote:{exchange}")

    def outcomes(self, domain: str) -> str:
        """Capped stream of Outcome."""
        return self._t(domain, "outcomes")

    def totals(self, domain: str) -> str:
        """Hash: ``<version>|<arm>|<field>`` -> running sum."""
        return self._t(domain, "totals")

    def units(self, domain: str, group: str) -> str:
        """Capped hash with TTL: unit -> its sums. ``group`` is ``<experiment or v<version>>|<arm>``."""
        return self._t(domain, f"units:{group}")

    def unit_groups(self, domain: str) -> str:
        """Sorted set: group of units -> time of its last write."""
        return self._t(domain, "unit-groups")

    def batch(self, domain: str, batch: str) -> str:
        """String with TTL: a batch of outcomes that has been counted."""
        return self._t(domain, f"batch:{batch}")

    def usage(self, name: str, window: str) -> str:
        """Hash with TTL: counters of one key (or budget) in one window."""
        return f"{self.prefix}:t:{{{name}}}:usage:{window}"

    # --- jobs plane -----------------------------------------------------------------------------------------------

    def _j(self, domain: str, what: str) -> str:
        return f"{self.prefix}:j:{{{domain}}}:{what}"

    def dataset(self, domain: str, digest: str) -> str:
        """String with TTL: Dataset."""
        return self._j(domain, f"dataset:{digest}")

    def datasets(self, domain: str) -> str:
        """Sorted set: dataset hash -> time."""
        return self._j(domain, "datasets")

    def groups(self, domain: str) -> str:
        """String with TTL: TaskGroups."""
        return self._j(domain, "groups")

    def run(self, domain: str, run_id: str) -> str:
        """String with TTL: Run."""
        return self._j(domain, f"run:{run_id}")

    def run_fence(self, domain: str, run_id: str) -> str:
        """String with TTL: highest fencing number that has written this run."""
        return self._j(domain, f"fence:{run_id}")

    def run_events(self, domain: str, run_id: str) -> str:
        """Capped stream with TTL: what happened in a run."""
        return self._j(domain, f"events:{run_id}")

    def run_journal(self, domain: str, run_id: str) -> str:
        """Hash with TTL: what a run has paid for, by the content of the request, while it is under way."""
        return self._j(domain, f"journal:{run_id}")

    def runs(self, domain: str) -> str:
        """Capped sorted set: run id -> time it was asked for."""
        return self._j(domain, "runs")

    def live_run(self, domain: str) -> str:
        """String: id of the one run of this domain that is queued or running."""
        return self._j(domain, "live-run")

    def lease(self, name: str) -> str:
        """String with TTL: ``<fence> <holder>``."""
        return self._j(name, "lease")

    def lease_fence(self, name: str) -> str:
        """String with TTL: last fencing number given out."""
        return self._j(name, "lease-fence")

    def places(self, name: str) -> str:
        """Hash with TTL: holder -> until when, how many wanted, how many granted of a limited number of places."""
        return self._j(name, "places")

    def trigger_seen(self, trigger_id: str) -> str:
        """String with TTL: this firing has been written once."""
        return f"{self.prefix}:j:{{{FLEET}}}:seen:{trigger_id}"
