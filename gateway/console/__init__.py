"""The operator's web console: server-rendered pages over the same registry and the same keys as the API.

routes.py      pages and forms          views.py       what each page shows, one typed context each
session.py     who sits there           rendering.py   contexts to HTML, escaped, under a strict policy
diff.py        what changed in a prompt, and which version wrote which words
failures.py    what goes wrong before a page is reached
"""

from __future__ import annotations

from gateway.console.failures import install_pages
from gateway.console.routes import STATIC, console_router

__all__ = ["STATIC", "console_router", "install_pages"]
