"""A LangChain app, pointed at the gateway."""

import os

from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model=os.environ.get("METASPO_MODEL", "gpt-4o-mini"),
    base_url=os.environ.get("METASPO_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ["METASPO_KEY"],
)
print("answer:", model.invoke("Where is my parcel?").content)
print("stream:", "".join(chunk.content for chunk in model.stream("Tell me a story.")))
