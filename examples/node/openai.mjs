// An app on the OpenAI SDK for Node, pointed at the gateway.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: (process.env.METASPO_URL ?? "http://127.0.0.1:8080") + "/v1",
  apiKey: process.env.METASPO_KEY,
});
const model = process.env.METASPO_MODEL ?? "gpt-4o-mini";

const answer = await client.chat.completions.create({ model, messages: [{ role: "user", content: "Where is my parcel?" }] });
console.log("answer:", answer.choices[0].message.content);

const stream = await client.chat.completions.create({ model, messages: [{ role: "user", content: "Tell me a story." }], stream: true });
let text = "";
for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
console.log("stream:", text);
