// An app on OpenAI's Node SDK, as one that was written for the Assistants API: it prints what it saw as one JSON object.
//
//     OPENAI_PACKAGE=…/node_modules/openai OPENAI_BASE_URL=http://127.0.0.1:8731/v1 node node_client.mjs
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const { default: OpenAI } = await import(pathToFileURL(join(process.env.OPENAI_PACKAGE, "index.mjs")));
const client = new OpenAI({ apiKey: "any", maxRetries: 0 });
const { assistants, threads } = client.beta;
const weather = {
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: { place: { type: "string" } } } },
};
const saw = {};
const textOf = (message) => message.content.map((part) => part.text.value).join("");

async function eventsOf(stream) {
  const names = [];
  let text = "";
  stream.on("textDelta", (delta) => (text += delta.value));
  for await (const event of stream) names.push(event.event);
  return { names, text, run: await stream.finalRun() };
}

// A run that is polled
const plain = await assistants.create({ model: "gpt-4o", name: "John", metadata: { team: "a" } });
const thread = await threads.create({ metadata: { customer: "42" } });
await threads.messages.create(thread.id, { role: "user", content: "Hello" });
const polled = await threads.runs.createAndPoll(thread.id, { assistant_id: plain.id });
saw.polled = { status: polled.status, usage: polled.usage.total_tokens > 0 };

// A streamed run that calls a function
const caller = await assistants.create({ model: "gpt-4o", tools: [weather] });
await threads.messages.create(thread.id, { role: "user", content: "How is the weather?" });
const asked = await eventsOf(threads.runs.stream(thread.id, { assistant_id: caller.id }));
const calls = asked.run.required_action.submit_tool_outputs.tool_calls;
saw.asked = { names: asked.names, status: asked.run.status, call: calls[0].function };
const outputs = calls.map((call) => ({ tool_call_id: call.id, output: "sunny" }));
const told = await eventsOf(
  threads.runs.submitToolOutputsStream(asked.run.id, { thread_id: thread.id, tool_outputs: outputs }),
);
saw.told = { names: told.names, text: told.text, status: told.run.status, same: told.run.id === asked.run.id };

// A thread and a run at once, with results that are polled
const begun = await threads.createAndRunPoll({
  assistant_id: caller.id,
  thread: { messages: [{ role: "user", content: "And in Lyon?" }] },
});
const [begunCall] = begun.required_action.submit_tool_outputs.tool_calls;
const finished = await threads.runs.submitToolOutputsAndPoll(begun.id, {
  thread_id: begun.thread_id,
  tool_outputs: [{ tool_call_id: begunCall.id, output: "rain" }],
});
saw.begun = { status: begun.status, finished: finished.status };

// A run that is cancelled
const waiting = await threads.createAndRunPoll({
  assistant_id: caller.id,
  thread: { messages: [{ role: "user", content: "And in Oslo?" }] },
});
saw.busy = await threads.runs
  .create(waiting.thread_id, { assistant_id: caller.id })
  .catch((error) => ({ status: error.status, message: error.message, kind: error.constructor.name }));
const cancelled = await threads.runs.cancel(waiting.id, { thread_id: waiting.thread_id });
saw.cancelled = cancelled.status;

// Lists, page by page
const said = [];
for await (const message of threads.messages.list(thread.id, { order: "asc", limit: 2 })) {
  said.push([message.role, textOf(message)]);
}
saw.said = said;
const runs = [];
for await (const run of threads.runs.list(thread.id, { order: "asc", limit: 1 })) runs.push(run.status);
saw.runs = runs;
const steps = [];
for await (const step of threads.runs.steps.list(told.run.id, { thread_id: thread.id, order: "asc", limit: 1 })) {
  steps.push(step.type);
}
saw.steps = steps;
const found = [];
for await (const each of assistants.list({ limit: 1 })) found.push(each.id);
saw.assistants = found.length === 2 && found[0] === caller.id;
saw.metadata = (await threads.retrieve(thread.id)).metadata;

// What is gone
await threads.delete(thread.id);
saw.gone = await threads.retrieve(thread.id).catch((error) => error.status);

// Chat Completions
const { completions } = client.chat;
const hello = { model: "gpt-4o", messages: [{ role: "user", content: "Hello" }] };
const stored = await completions.create({ ...hello, store: true, metadata: { conversation: "node-1" } });
saw.completion = [stored.choices[0].message.content, stored.choices[0].finish_reason, stored.usage.total_tokens > 0];
saw.stored = (await completions.retrieve(stored.id)).id === stored.id;
const kept = [];
for await (const message of completions.messages.list(stored.id)) kept.push(message.role);
saw.kept = kept;
const chunks = [];
const chunked = await completions.create({ ...hello, stream: true, stream_options: { include_usage: true } });
for await (const chunk of chunked) chunks.push(chunk);
saw.chunks = {
  text: chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""),
  usage: chunks.at(-1).usage.total_tokens > 0,
};
const runner = completions.runTools({
  ...hello,
  tools: [{ type: "function", function: { ...weather.function, parse: JSON.parse, function: ({ place }) => `rain in ${place}` } }],
});
saw.tools = await runner.finalContent();
saw.unknown = await completions.retrieve("chatcmpl-0123").catch((error) => error.status);

// Conversations and Responses
const { conversations, responses } = client;
const ask = (input, more) => responses.create({ model: "gpt-4o", input, ...more });
const joined = (events) =>
  events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
const conversation = await conversations.create({
  metadata: { customer: "42" },
  items: [{ type: "message", role: "user", content: "I am Ada." }],
});
const inConversation = await ask("Who am I?", { conversation: conversation.id });
saw.inConversation = [inConversation.output_text, inConversation.conversation.id === conversation.id];
const items = [];
for await (const item of conversations.items.list(conversation.id, { order: "asc", limit: 2 })) {
  items.push([item.role, item.content[0].text]);
}
saw.items = items;
const [first] = (await conversations.items.list(conversation.id, { order: "asc", limit: 1 })).data;
saw.item = (await conversations.items.retrieve(first.id, { conversation_id: conversation.id })).id === first.id;
await conversations.items.delete(first.id, { conversation_id: conversation.id });
saw.left = (await conversations.items.list(conversation.id)).data.length;
saw.updated = (await conversations.update(conversation.id, { metadata: { customer: "43" } })).metadata;
saw.deleted = (await conversations.delete(conversation.id)).deleted;
saw.goneConversation = await conversations.retrieve(conversation.id).catch((error) => error.status);

// A stream, also with the SDK's helper, which puts the events together
const streamed = [];
for await (const event of await ask("Tell me more", { stream: true })) streamed.push(event);
saw.streamed = [joined(streamed), streamed.at(-1).response.output_text ?? streamed.at(-1).response.output[0].content[0].text];
const helper = responses.stream({ model: "gpt-4o", input: "Tell me more" });
saw.helper = (await helper.finalResponse()).output_text;

// A stream in the background that is resumed
const begunEvents = [];
const inBackground = await ask("Tell me more", { stream: true, background: true });
for await (const event of inBackground) {
  begunEvents.push(event);
  if (event.type === "response.output_text.delta") break;
}
const { id } = begunEvents[0].response;
const rest = [];
const resumed = await responses.retrieve(id, { stream: true, starting_after: begunEvents.at(-1).sequence_number });
for await (const event of resumed) rest.push(event);
saw.resumed = [joined([...begunEvents, ...rest]), rest.at(-1).type];

// A response in the background that is polled
let waitingFor = await ask("Hello", { background: true });
while (["queued", "in_progress"].includes(waitingFor.status)) waitingFor = await responses.retrieve(waitingFor.id);
saw.background = [waitingFor.status, waitingFor.output_text];
saw.ended = (await responses.cancel(waitingFor.id)).status;

// A function
const tools = [{ ...weather.function, type: "function", strict: false }];
const called = await ask("How is the weather?", { tools });
const [functionCall] = called.output;
const output = { type: "function_call_output", call_id: functionCall.call_id, output: "sunny" };
const answered = await ask([output], { tools, previous_response_id: called.id });
saw.function = [functionCall.name, functionCall.arguments, answered.output_text];
const inputs = [];
for await (const item of responses.inputItems.list(answered.id)) inputs.push([item.type, item.output]);
saw.inputs = inputs;
const format = { type: "json_schema", name: "person", strict: true, schema: { type: "object", properties: {} } };
saw.format = (await ask("Hello", { text: { format } })).text.format.name;
await responses.delete(answered.id);
saw.goneResponse = await responses.retrieve(answered.id).catch((error) => [error.status, error.message.replace(answered.id, "it")]);

process.stdout.write(JSON.stringify(saw));
