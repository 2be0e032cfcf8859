"""The key shapes of ``detect-secrets``, without what that package brings along.

Its plugins import `requests`, and with it some 6 MB that every worker would hold for a few dozen patterns. So another
interpreter imports them and prints the patterns, once per worker, when the first text is scrubbed: this file is that
program, too.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from functools import cache
from importlib import import_module

log = logging.getLogger(__name__)

DETECTORS = (
    ("artifactory", "ArtifactoryDetector"),
    ("aws", "AWSKeyDetector"),
    ("azure_storage_key", "AzureStorageKeyDetector"),
    ("discord", "DiscordBotTokenDetector"),
    ("github_token", "GitHubTokenDetector"),
    ("gitlab_token", "GitLabTokenDetector"),
    ("mailchimp", "MailchimpDetector"),
    ("pypi_token", "PypiTokenDetector"),
    ("sendgrid", "SendGridDetector"),
    ("slack", "SlackDetector"),
    ("square_oauth", "SquareOAuthDetector"),
    ("stripe", "StripeDetector"),
    ("telegram_token", "TelegramBotTokenDetector"),
    ("twilio", "TwilioKeyDetector"),
)
"""The detectors whose patterns are linear in the text. npm's and OpenAI's are not: `gateway.scrub` has its own."""
PATIENCE = 30.0
"""Seconds that the other interpreter may take."""


@cache
def known_keys() -> tuple[re.Pattern[str], ...]:
    """The patterns of all `DETECTORS`. Blocks on first use: called in the scrubbing thread."""
    try:
        printed = subprocess.run(
            [sys.executable, "-P", __file__], capture_output=True, check=True, timeout=PATIENCE
        ).stdout
        return tuple(re.compile(pattern, flags) for pattern, flags in json.loads(printed))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.warning("no second interpreter for the key shapes (%s): this worker takes 6 MB more", type(error).__name__)
        return imported()


def imported() -> tuple[re.Pattern[str], ...]:
    """The patterns, by importing `detect_secrets` here."""
    patterns: list[re.Pattern[str]] = []
    for module, name in DETECTORS:
        patterns += getattr(import_module(f"detect_secrets.plugins.{module}"), name).denylist
    return tuple(patterns)


if __name__ == "__main__":
    print(json.dumps([(pattern.pattern, pattern.flags) for pattern in imported()]))
