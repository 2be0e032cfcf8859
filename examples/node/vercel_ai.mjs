// The Vercel AI SDK, pointed at the gateway.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, streamText } from "ai";

const provider = createOpenAI({
  baseURL: (process.env.METASPO_URL ?? "http://127.0.0.1:8080") + "/v1",
  apiKey: process.env.METASPO_KEY,
});
const model = provider.chat(process.env.METASPO_MODEL ?? "gpt-4o-mini");

const { text } = await generateText({ model, prompt: "Where is my parcel?" });
console.log("answer:", text);

const stream = streamText({ model, prompt: "Tell me a story." });
let streamed = "";
for await (const part of stream.textStream) streamed += part;
console.log("stream:", streamed);
