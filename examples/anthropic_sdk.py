"""An app on the Anthropic SDK, pointed at the gateway."""

import os

from anthropic import Anthropic

client = Anthropic(base_url=os.environ.get("METASPO_URL", "http://127.0.0.1:8080"), api_key=os.environ["METASPO_KEY"])
MODEL = os.environ.get("METASPO_MODEL", "claude-sonnet-4-5")

message = client.messages.create(
    model=MODEL, max_tokens=200, messages=[{"role": "user", "content": "Where is my parcel?"}]
)
print("answer:", message.content[0].text)

with client.messages.stream(
    model=MODEL, max_tokens=200, messages=[{"role": "user", "content": "Tell me a story."}]
) as stream:
    print("stream:", "".join(stream.text_stream))
