"""The LiteLLM SDK: loaded late, with everything switched off that would act behind our back.

Off: fetching the price map from the network at import, reading a ``.env`` of the working directory, telemetry,
retries of its own, dropping and rewriting of parameters, logging (its log lines hold contents). On: the check of
URLs that callers put into messages, so that nobody makes this machine fetch an address of its own network.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any


@cache
def sdk() -> Any:
    """The module `litellm`, imported and set up. Takes seconds the first time: call it in a thread."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
    import litellm

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.num_retries = 0
    litellm.drop_params = False
    litellm.modify_params = False
    litellm.user_url_validation = True
    litellm.disable_streaming_logging = True
    litellm.use_chat_completions_url_for_anthropic_messages = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = False
        logger.setLevel(logging.CRITICAL + 1)
    return litellm
