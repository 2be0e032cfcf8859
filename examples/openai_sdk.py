"""An app on the OpenAI SDK, pointed at the gateway: two lines differ from talking to the provider."""

import os

from openai import OpenAI

URL = os.environ.get("METASPO_URL", "http://127.0.0.1:8080")
client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ["METASPO_KEY"])
MODEL = os.environ.get("METASPO_MODEL", "gpt-4o-mini")

# A whole answer, with the headers that say what was served.
raw = client.chat.completions.with_raw_response.create(
    model=MODEL,
    messages=[{"role": "user", "content": "Where is my parcel?"}],
    extra_headers={"x-metaspo-unit": "customer-17", "x-metaspo-task": "triage"},
)
print("answer: ", raw.parse().choices[0].message.content)
print("served: ", raw.headers.get("x-metaspo-domain"), "version", raw.headers.get("x-metaspo-version", "none"))

# A stream.
stream = client.chat.completions.create(
    model=MODEL, messages=[{"role": "user", "content": "Tell me a story."}], stream=True
)
print("stream: ", "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))

# What came of it, later: the id names the exchange.
import httpx  # noqa: E402 - any HTTP client does

answer = httpx.post(
    f"{URL}/v1/feedback",
    headers={"authorization": f"Bearer {client.api_key}"},
    json={"exchange": raw.headers["x-metaspo-exchange"], "score": 1.0, "reference": "shipping"},
)
print("feedback:", answer.status_code)
