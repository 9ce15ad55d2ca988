// What the openai package for Node.js makes of the gateway's answers, as one JSON object on stdout.
// stdin: {url, keys, model, tool, sure, unsure, poem, weather, picture, image, person, schema, text}
"use strict";
const { readFileSync } = require("node:fs");
const OpenAI = require("openai");

const given = JSON.parse(readFileSync(0, "utf8"));
const { url, keys, model } = given;

function clientOf(apiKey, more = {}) {
  return new OpenAI({ baseURL: url, apiKey, maxRetries: 0, timeout: 20_000, ...more });
}

const client = clientOf(keys.any);
const user = (content) => [{ role: "user", content }];
const tools = [{ type: "function", function: given.tool }];

async function refused(act) {
  try {
    await act();
  } catch (error) {
    return {
      kind: error.constructor.name,
      known: error instanceof OpenAI.APIError,
      status: error.status,
      code: error.code,
      requestId: error.requestID,
      tiercelId: error.headers?.get("x-tiercel-id"),
    };
  }
  return null;
}

const checks = {
  async whole() {
    const found = {};
    for (const name of ["sure", "unsure"]) {
      const asked = client.chat.completions.create({ model, messages: given[name] });
      const { data, response, request_id } = await asked.withResponse();
      found[name] = { ...data, tier: response.headers.get("x-tiercel-tier"), requestId: request_id };
    }
    return found;
  },

  async stream() {
    const options = { model, stream: true, stream_options: { include_usage: true } };
    const found = {};
    for (const [name, messages] of [["poem", user(given.poem)], ["sure", given.sure]]) {
      const chunks = [];
      for await (const chunk of await client.chat.completions.create({ ...options, messages })) chunks.push(chunk);
      found[name] = {
        text: chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""),
        ends: chunks.map((c) => c.choices[0]?.finish_reason).filter(Boolean),
        usage: chunks.at(-1).usage,
      };
    }
    return found;
  },

  async helper() {
    const stream = client.chat.completions.stream({ model, messages: user(given.weather), tools });
    const message = await stream.finalMessage();
    return message.tool_calls.map((call) => [call.id, call.function.name, JSON.parse(call.function.arguments)]);
  },

  async tools() {
    const asked = [];
    const run = (input) => (asked.push(input), input.city === "Paris" ? "18" : "24");
    const runner = client.chat.completions.runTools({
      model,
      messages: user(given.weather),
      tools: [{ type: "function", function: { ...given.tool, parse: JSON.parse, function: run } }],
    });
    return { answer: await runner.finalContent(), asked };
  },

  async structured() {
    const json_schema = { name: "person", schema: given.schema, strict: true };
    const response_format = { type: "json_schema", json_schema };
    const answer = await client.chat.completions.create({ model, messages: user(given.person), response_format });
    return JSON.parse(answer.choices[0].message.content);
  },

  async image() {
    const content = [
      { type: "text", text: given.picture },
      { type: "image_url", image_url: { url: given.image } },
    ];
    const answer = await client.chat.completions.create({ model, messages: user(content) });
    return answer.choices[0].message.content;
  },

  async responses() {
    const answer = await client.responses.create({ model, input: given.poem });
    const stream = client.responses.stream({ model, input: given.poem });
    const kinds = [];
    for await (const event of stream) kinds.push(event.type);
    const final = await stream.finalResponse();
    return { text: answer.output_text, kinds, final: final.output_text, usage: final.usage };
  },

  async others() {
    const models = [];
    for await (const found of client.models.list()) models.push(found.id);
    const completion = await client.completions.create({ model, prompt: given.text });
    return {
      models,
      retrieved: await client.models.retrieve("tiercel/helpdesk"),
      completion: completion.choices[0].text,
      embeddings: await client.embeddings
        .create({ model: "text-embedding-3-small", input: ["the sea", "a parcel"] })
        .then((answer) => answer.data.map((item) => item.embedding.length))
        .catch((error) => error.constructor.name),
    };
  },

  async errors() {
    const ask = (key, name = model, messages = given.unsure) =>
      refused(() => clientOf(keys[key] ?? key).chat.completions.create({ model: name, messages }));
    return {
      key: await ask("another key"),
      tier: await ask("small"),
      model: await ask("any", "tiercel/nobody"),
      body: await ask("any", model, []),
      budget: await ask("poor"),
      throttled: await ask("any", "tiercel/throttled"),
      broken: await ask("any", "tiercel/broken"),
      local: await ask("local"),
    };
  },

  async retries() {
    const found = {};
    for (const key of ["poor", "local"]) {
      let sent = 0;
      const counting = (...more) => (sent++, fetch(...more));
      const stubborn = clientOf(keys[key], { maxRetries: 3, fetch: counting });
      await refused(() => stubborn.chat.completions.create({ model, messages: given.unsure }));
      found[key] = sent;
    }
    return found;
  },
};

(async () => {
  const found = {};
  for (const [name, check] of Object.entries(checks)) {
    try {
      found[name] = await check();
    } catch (error) {
      found[name] = { failed: String(error.stack ?? error) };
    }
  }
  process.stdout.write(JSON.stringify(found));
})();
