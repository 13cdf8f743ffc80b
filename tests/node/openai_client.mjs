// OpenAI's own client for Node against `margay serve`: the list of `python/openai_client.py`, in this client's words.
//
//     node openai_client.mjs BASE_URL MODEL device|cloud [TOKEN]

import assert from "node:assert/strict";
import { createRequire } from "node:module";

// The packages are where NODE_PATH says, which only `require` looks at.
const OpenAI = createRequire(import.meta.url)("openai");
const [baseURL, model, who, token] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: token ?? "unused", maxRetries: 0, timeout: 60_000 });
const hello = [{ role: "system", content: "be brief" }, { role: "user", content: "hello" }];
const origin = who === "device" ? "local" : "cloud";
const checked = [];

async function check(name, test) {
  await test();
  checked.push(name);
}

const ask = more => client.chat.completions.create({ model, messages: hello, max_tokens: 12, ...more });

async function all(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

const textOf = chunks => chunks.map(chunk => chunk.choices[0]?.delta.content ?? "").join("");

await check("models are listed, and one is shown", async () => {
  assert.deepEqual((await client.models.list()).data.map(entry => entry.id), [model]);
  assert.equal((await client.models.retrieve(model)).owned_by, "margay");
  await assert.rejects(client.models.retrieve("other"), OpenAI.NotFoundError);
});

await check("a whole answer has text, usage and the account of who gave it", async () => {
  const answer = await ask();
  assert.ok(answer.choices[0].message.content);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  assert.equal(answer.margay.origin, origin);
  if (who === "cloud") assert.equal(answer.choices[0].message.content, "from the cloud");
});

await check("headers say who answered", async () => {
  const { response } = await ask().withResponse();
  assert.equal(response.headers.get("x-margay-origin"), origin);
});

await check("a streamed answer is the whole one in pieces", async () => {
  const chunks = await all(ask({ stream: true }));
  assert.equal(textOf(chunks), (await ask()).choices[0].message.content);
  assert.equal(chunks.at(-1).margay.origin, origin);
});

await check("the client's own gathering of a stream agrees", async () => {
  const runner = client.chat.completions.stream({ model, messages: hello, max_tokens: 12 });
  const final = await runner.finalChatCompletion();
  assert.equal(final.choices[0].message.content, (await ask()).choices[0].message.content);
});

await check("usage comes with the last chunk if it was asked for", async () => {
  const chunks = await all(ask({ stream: true, stream_options: { include_usage: true } }));
  assert.ok(chunks.at(-1).usage.total_tokens > 0);
  assert.ok(chunks.slice(0, -1).every(chunk => chunk.usage === null));
});

await check("what is not there is refused with the right exceptions", async () => {
  await assert.rejects(ask({ n: 2 }), error => error instanceof OpenAI.BadRequestError && error.param === "n");
  await assert.rejects(ask({ model: "other" }), OpenAI.NotFoundError);
  await assert.rejects(ask({ max_tokens: 1e6 }), error => error.code === "context_length_exceeded");
  await assert.rejects(ask({ messages: 7 }), OpenAI.BadRequestError);
});

await check("a broken-off stream does no harm", async () => {
  const stream = await ask({ stream: true });
  for await (const _ of stream) break;
  assert.ok((await ask()).choices[0].message.content);
});

await check("what is aborted ends", async () => {
  const controller = new AbortController();
  const asked = client.chat.completions.create({ model, messages: hello }, { signal: controller.signal });
  controller.abort();
  await assert.rejects(asked, OpenAI.APIUserAbortError);
  assert.ok((await ask()).choices[0].message.content);
});

if (token) {
  await check("a wrong token is refused", async () => {
    const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
    await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
  });
}

if (who === "device") {
  await check("log-probabilities", async () => {
    const answer = await ask({ logprobs: true, top_logprobs: 2 });
    const tokens = answer.choices[0].logprobs.content;
    assert.equal(tokens.length, answer.usage.completion_tokens);
    assert.ok(tokens.every(token => token.top_logprobs.length === 2 && token.top_logprobs[0].token === token.token));
  });
  await check("a stop string ends the answer", async () => {
    const text = (await ask()).choices[0].message.content;
    const stop = text.slice(Math.floor(text.length / 2)).slice(0, 2);
    assert.equal((await ask({ stop })).choices[0].message.content, text.slice(0, text.indexOf(stop)));
  });
  await check("an answer is JSON of the schema that was asked for", async () => {
    const schema = {
      type: "object",
      properties: { wild: { type: "boolean" }, cat: { enum: ["margay", "ocelot"] } },
      required: ["wild", "cat"],
      additionalProperties: false,
    };
    const response_format = { type: "json_schema", json_schema: { name: "cat", strict: true, schema } };
    const runner = client.chat.completions.stream({ model, messages: hello, max_tokens: 200, response_format });
    const value = JSON.parse((await runner.finalChatCompletion()).choices[0].message.content);
    assert.deepEqual(Object.keys(value), ["wild", "cat"]);
    assert.ok(typeof value.wild === "boolean" && ["margay", "ocelot"].includes(value.cat));
  });
  await check("a seed gives the same answer again", async () => {
    const drawn = async () => (await ask({ temperature: 1.5, seed: 7 })).choices[0].message.content;
    assert.equal(await drawn(), await drawn());
  });
  await check("a raw text is gone on with", async () => {
    const answer = await client.completions.create({ model, prompt: "hello", max_tokens: 6 });
    const chunks = await all(client.completions.create({ model, prompt: "hello", max_tokens: 6, stream: true }));
    assert.equal(chunks.map(chunk => chunk.choices[0].text).join(""), answer.choices[0].text);
  });
} else {
  await check("functions go to the large model", async () => {
    const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
    const runner = client.chat.completions.stream({ model, messages: hello, tools });
    const [call] = (await runner.finalChatCompletion()).choices[0].message.tool_calls;
    assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ["weather", { city: "Lima" }]);
  });
}

console.log(JSON.stringify(checked));
