"""The registry: what exists, what is live, what happened. The one object is in ``registry.py``,
the nouns in ``records.py``.

Names are loaded when first used, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.acl import acl_file
    from registry.checks import check
    from registry.digests import hash_key, unit_digest
    from registry.embedded import (
        EmbeddedRedis,
        running_url,
    )
    from registry.errors import (
        Conflict,
        Corrupt,
        NotConfirmed,
        NotFound,
        Refused,
        RegistryError,
        RegistryUnavailable,
        SettingsError,
    )
    from registry.lifecycle import (
        describe,
        live_versions,
    )
    from registry.prompt_files import (
        ImportedPrompt,
        read_prompts,
    )
    from registry.records import (
        GLOBAL,
        Approval,
        Arm,
        AuditEntry,
        Budget,
        CanaryPlan,
        Dataset,
        Deployment,
        Domain,
        DomainView,
        ErasureReport,
        Example,
        Feedback,
        Finding,
        GateOutcome,
        InjectMode,
        JudgeKind,
        JudgeSpec,
        KeyRecord,
        Lease,
        Lineage,
        MatchRule,
        Message,
        MoveKind,
        Outcome,
        PromotionPolicy,
        Record,
        Role,
        Run,
        RunState,
        Sample,
        SamplePolicy,
        ServedVersion,
        Snapshot,
        Tally,
        Task,
        TaskGroup,
        TaskGroups,
        Trigger,
        Version,
    )
    from registry.redis_keys import (
        FLEET,
        PREFIX,
        domain_name,
    )
    from registry.registry import (
        Registry,
        watch,
    )
    from registry.schedules import schedule_fault
    from registry.settings import (
        BudgetSettings,
        CanarySettings,
        DomainSettings,
        GatewaySettings,
        JobsSettings,
        JudgeSettings,
        KeySettings,
        ModelRoute,
        RetentionSettings,
        SampleSettings,
        Settings,
        TaskSettings,
        TimeoutSettings,
        UpstreamSettings,
        load_settings,
    )
    from registry.settings_sources import (
        SettingRow,
        settings_reference,
    )
    from registry.signing import (
        Signer,
        Verifier,
        content_hash,
        load_public,
        verify,
    )
    from registry.watcher import SnapshotWatcher

__all__ = [
    "FLEET",
    "GLOBAL",
    "PREFIX",
    "Approval",
    "Arm",
    "AuditEntry",
    "Budget",
    "BudgetSettings",
    "CanaryPlan",
    "CanarySettings",
    "Conflict",
    "Corrupt",
    "Dataset",
    "Deployment",
    "Domain",
    "DomainSettings",
    "DomainView",
    "EmbeddedRedis",
    "ErasureReport",
    "Example",
    "Feedback",
    "Finding",
    "GateOutcome",
    "GatewaySettings",
    "ImportedPrompt",
    "InjectMode",
    "JobsSettings",
    "JudgeKind",
    "JudgeSettings",
    "JudgeSpec",
    "KeyRecord",
    "KeySettings",
    "Lease",
    "Lineage",
    "MatchRule",
    "Message",
    "ModelRoute",
    "MoveKind",
    "NotConfirmed",
    "NotFound",
    "Outcome",
    "PromotionPolicy",
    "Record",
    "Refused",
    "Registry",
    "RegistryError",
    "RegistryUnavailable",
    "RetentionSettings",
    "Role",
    "Run",
    "RunState",
    "Sample",
    "SamplePolicy",
    "SampleSettings",
    "ServedVersion",
    "SettingRow",
    "Settings",
    "SettingsError",
    "Signer",
    "Snapshot",
    "SnapshotWatcher",
    "Tally",
    "Task",
    "TaskGroup",
    "TaskGroups",
    "TaskSettings",
    "TimeoutSettings",
    "Trigger",
    "UpstreamSettings",
    "Verifier",
    "Version",
    "acl_file",
    "check",
    "content_hash",
    "describe",
    "domain_name",
    "hash_key",
    "live_versions",
    "load_public",
    "load_settings",
    "read_prompts",
    "running_url",
    "schedule_fault",
    "settings_reference",
    "unit_digest",
    "verify",
    "watch",
]

_HOMES = {
    "acl": "acl_file",
    "checks": "check",
    "digests": "hash_key unit_digest",
    "embedded": "EmbeddedRedis running_url",
    "errors": "Conflict Corrupt NotConfirmed NotFound Refused RegistryError RegistryUnavailable SettingsError",
    "lifecycle": "describe live_versions",
    "prompt_files": "ImportedPrompt read_prompts",
    "records": (
        "GLOBAL Approval Arm AuditEntry Budget CanaryPlan Dataset Deployment Domain DomainView ErasureReport "
        "Example Feedback Finding GateOutcome InjectMode JudgeKind JudgeSpec KeyRecord Lease Lineage "
        "MatchRule Message MoveKind Outcome PromotionPolicy Record Role Run RunState Sample SamplePolicy "
        "ServedVersion Snapshot Tally Task TaskGroup TaskGroups Trigger Version "
    ),
    "redis_keys": "FLEET PREFIX domain_name",
    "registry": "Registry watch",
    "schedules": "schedule_fault",
    "settings": (
        "BudgetSettings CanarySettings DomainSettings GatewaySettings JobsSettings JudgeSettings KeySettings "
        "ModelRoute RetentionSettings SampleSettings Settings TaskSettings TimeoutSettings UpstreamSettings "
        "load_settings "
    ),
    "settings_sources": "SettingRow settings_reference",
    "signing": "Signer Verifier content_hash load_public verify",
    "watcher": "SnapshotWatcher",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'registry' has no attribute {name!r}")
    return getattr(importlib.import_module(f"registry.{home}"), name)


def __dir__() -> list[str]:
    return __all__
