"""Everything as one file, taken from a live registry: compressed, checksummed, readable by any program that reads JSON lines.

The file is zstandard-compressed lines. First the head ``{"format", "schema", "prefix", "taken_at"}``, then one line per key
``[name, type, milliseconds to live or null, value in base64]`` (the value as Redis' own DUMP, so every type keeps its exact
form), last the foot ``{"keys", "sha256"}`` over all lines before it. A file without its foot is a truncated one.

Consistency: each key is read at one instant. A domain's keys are read together, in one transaction, so a version, the
pointer to it and its audit entry are in the backup together or not at all. Leases, request ids and rate counters are left
out: they are true only for a moment.
"""

from __future__ import annotations
