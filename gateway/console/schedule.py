"""What runs by itself, for the jobs page. The gateway cannot ask the jobs: a test compares this list with theirs."""

from __future__ import annotations

from gateway.console.contexts import FiringJob

WHAT_FIRES = (
    FiringJob("canary", "every 2 seconds", "looks at canaries and holdbacks; moves their pointers"),
    FiringJob("judge", "every 10 minutes", "scores fresh samples of every arm"),
    FiringJob("drift", "every 10 minutes", "asks for a search when scores leave their band"),
    FiringJob("curate", "every 6 hours", "makes datasets of the samples"),
    FiringJob("calibrate", "every night, 02:40", "compares the judge with people and with itself"),
    FiringJob("optimize", "the domain's schedule", "searches for a better system prompt"),
    FiringJob("global", "Sunday, 04:30", "searches for the prompt that all domains share"),
    FiringJob("adapt", "when asked", "writes a user prompt for a task under its domain's system prompt"),
    FiringJob("shadow", "when asked", "replays traffic under a version that nobody is served"),
    FiringJob("approval", "once a person approved", "makes the move that a person approved"),
    FiringJob("tell", "every 2 seconds with webhooks", "sends webhooks of promotions, rollbacks and waiting approvals"),
    FiringJob("retention", "hourly, at :17", "removes what is older than it may be"),
    FiringJob("report", "Monday, 06:00", "writes the week of a domain on one page"),
)
