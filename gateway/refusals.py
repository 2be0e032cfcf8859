"""What the gateway itself says when it does not carry a request."""

from __future__ import annotations

from gateway.exchange import Refusal

OVERLOADED = Refusal(
    429, "This gateway is at its limit: try again in a moment.", "rate_limit_error", code="overloaded", retry_after=1.0
)
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)
NO_KEY = Refusal(
    401,
    "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
    "(i.e. Authorization: Bearer YOUR_KEY) or in x-api-key.",
    code="invalid_api_key",
    headers=_CHALLENGE,
)
BAD_KEY = Refusal(
    401,
    "Incorrect API key provided. Ask the operator of this gateway for a caller key.",
    code="invalid_api_key",
    headers=_CHALLENGE,
)
NOT_JSON = Refusal(415, "The body of the request must be JSON: send it with `content-type: application/json`.")
NO_TRANSLATION = Refusal(
    501, "This model's upstream speaks another dialect, and no translate lane is set up.", "server_error"
)
ENDING = Refusal(
    503, "This gateway is shutting down: try again.", "server_error", code="shutting_down", retry_after=1.0
)
INTERNAL = Refusal(
    500, "The gateway failed to carry this request. It has been logged.", "server_error", code="internal_error"
)
ALL_FULL = Refusal(
    503, "Every upstream for this model is at its limit.", "server_error", code="overloaded", retry_after=1.0
)
NO_UPSTREAM = Refusal(
    503, "No upstream is configured: add one under `upstreams` in the config file.", "server_error", code="no_upstream"
)


def unknown_model(model: str) -> Refusal:
    """404 as OpenAI words it."""
    shown = model if len(model) <= 100 else model[:100] + "..."
    return Refusal(
        404,
        f"The model '{shown}' does not exist or you do not have access to it.",
        param="model",
        code="model_not_found",
    )


METRICS_NEED_A_KEY = Refusal(
    401,
    "The metrics need an operator's or a viewer's key.",
    type="authentication_error",
    code="invalid_api_key",
    headers=((b"www-authenticate", b"Bearer"),),
)
