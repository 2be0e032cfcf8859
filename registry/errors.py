"""What can go wrong in the registry.

::

    RegistryError                  base of all: catch this to catch everything
    ├── RegistryUnavailable        Redis is down, slow, or not writable just now: try again later
    │   └── NotConfirmed           the write was made, the server did not confirm in time that it is durable
    ├── Conflict                   somebody else moved first; ``current`` and ``moved`` say what
    ├── NotFound                   the named thing does not exist
    ├── Refused                    the request breaks a rule; asking again will not help
    ├── Corrupt                    a stored value is truncated, tampered with or foreign
    └── SettingsError              the config file or the environment says something impossible

Errors of the Redis client are translated at one edge, ``connection.py``. Every message is one sentence for a person.
"""

from __future__ import annotations

from typing import Any


class RegistryError(Exception):
    """Base of everything this package raises on purpose."""


class RegistryUnavailable(RegistryError):
    """Redis cannot be reached, answers too slowly, or refuses writes just now."""


class NotConfirmed(RegistryUnavailable):
    """The write was made, but the server did not confirm its durability in time. Ask again with the same request id."""


class Conflict(RegistryError):
    """Somebody else was first. ``current`` is the present state, ``moved`` the audit entry of the change, if known."""

    def __init__(self, message: str, current: Any = None, moved: Any = None) -> None:
        super().__init__(message)
        self.current = current
        self.moved = moved


class NotFound(RegistryError):
    """The named domain, version, key, run ... does not exist."""


class Refused(RegistryError):
    """The request breaks a rule of the house."""


class Corrupt(RegistryError):
    """A stored value cannot be read: truncated, tampered with, or written by something else."""


class SettingsError(RegistryError):
    """The configuration cannot be used. The message names the place and the nearest known key."""
