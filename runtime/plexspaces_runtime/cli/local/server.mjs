// A small model behind the part of OpenAI's API that MiniClaw uses, for `plexspaces chat --local`.
//
//   node server.mjs ENGINE MODEL PORT
//
// ENGINE is the folder whose node_modules holds node-llama-cpp, MODEL a GGUF file.  The model completes text: a
// conversation is written down as a dialogue, and what it writes until the next speaker is the answer.  Tools are left
// aside, for a model that completes text knows none.  It ends when its standard input does.

import { createRequire } from "node:module";
import { createServer } from "node:http";
import { availableParallelism } from "node:os";
import { basename, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [engine, file, port] = process.argv.slice(2);
const CONTEXT_TOKENS = 4096;
const ANSWER_TOKENS_MAX = 512;
const BODY_BYTES_MAX = 4 * 1024 * 1024;
const SPEAKERS = { user: "User", assistant: "Assistant", tool: "Tool" };
const INTRODUCTION = "The following is a conversation between a user and a friendly assistant. The answers of the "
  + "assistant are short and correct.";

// Whoever started this holds the other end: it closes when they die, however they die.
process.stdin.on("end", () => process.exit(0)).on("error", () => process.exit(0)).resume();

const found = createRequire(resolve(engine) + "/").resolve("node-llama-cpp");
const { getLlama, LlamaCompletion, LlamaLogLevel } = await import(pathToFileURL(found).href);
// Its threads wait for one another by spinning: with one for each core, and anything else to do on the machine, an answer
// takes a hundred times as long.
const maxThreads = Math.max(1, Math.min(4, Math.floor(availableParallelism() / 2)));
const llama = await getLlama({ gpu: false, maxThreads, build: "never", logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: file });
const context = await model.createContext({ contextSize: CONTEXT_TOKENS, sequences: 1, threads: maxThreads });
const completion = new LlamaCompletion({ contextSequence: context.getSequence() });
const name = basename(file, ".gguf");

class Mistake extends Error {}

function textOf(content) {
  if (typeof content === "string") return content;
  return Array.isArray(content) ? content.map((part) => part?.text ?? "").join("") : "";
}

// A conversation as a dialogue whose next words are the assistant's.  What does not fit is left out, the oldest first.
function dialogue(messages, room) {
  const lines = messages
    .filter((each) => each.role in SPEAKERS && textOf(each.content).trim())
    .map((each) => `${SPEAKERS[each.role]}: ${textOf(each.content).trim()}\n`);
  for (;;) {
    const text = `${INTRODUCTION}\n\n${lines.join("")}Assistant:`;
    if (lines.length <= 1 || model.tokenize(text).length <= room) return text;
    lines.shift();
  }
}

async function grammarOf(format) {
  switch (format?.type) {
    case undefined: case "text": return undefined;
    case "json_object": return llama.getGrammarFor("json");
    case "json_schema": return llama.createGrammarForJsonSchema(format.json_schema.schema);
    default: throw new Mistake(`response_format.type ${format.type} is not known here`);
  }
}

// One model, one answer at a time; the others wait for their turn.
let last = Promise.resolve();
function inTurn(work) {
  const done = last.then(work);
  last = done.catch(() => {});
  return done;
}

async function complete(body, signal, onText) {
  if (!Array.isArray(body.messages) || body.messages.length === 0) throw new Mistake("messages are required");
  const maxTokens = Math.min(body.max_completion_tokens || body.max_tokens || ANSWER_TOKENS_MAX, ANSWER_TOKENS_MAX);
  const grammar = await grammarOf(body.response_format);
  const prompt = dialogue(body.messages, CONTEXT_TOKENS - maxTokens - 16);
  const promptTokens = model.tokenize(prompt).length;
  let tokens = 0, begun = false;
  const { metadata } = await completion.generateCompletionWithMeta(prompt, {
    signal, maxTokens, grammar,
    temperature: body.temperature ?? 0,
    // A small model that repeats itself would go on until it may not.
    repeatPenalty: { penalty: 1.2, lastTokens: 96 },
    customStopTriggers: grammar ? [] : Object.values(SPEAKERS).map((who) => `\n${who}:`),
    onToken: (some) => { tokens += some.length; },
    onTextChunk: (text) => {
      const shown = begun ? text : text.trimStart();
      begun ||= shown !== "";
      if (shown) onText(shown);
    },
  });
  return {
    reason: metadata.stopReason === "maxTokens" ? "length" : "stop",
    usage: { prompt_tokens: promptTokens, completion_tokens: tokens, total_tokens: promptTokens + tokens },
  };
}

async function read(request) {
  const pieces = [];
  let size = 0;
  for await (const piece of request) {
    size += piece.length;
    if (size > BODY_BYTES_MAX) throw new Mistake(`the body is larger than ${BODY_BYTES_MAX} bytes`);
    pieces.push(piece);
  }
  try {
    return JSON.parse(Buffer.concat(pieces).toString("utf8"));
  } catch {
    throw new Mistake("the body is not JSON");
  }
}

function answer(response, status, content) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(content));
}

let answers = 0;
async function chat(request, response) {
  const body = await read(request);
  const head = { id: `chatcmpl-${++answers}`, created: Math.floor(Date.now() / 1000), model: name };
  const gone = new AbortController();
  response.on("close", () => gone.abort(new Error("nobody reads any more")));
  if (!body.stream) {
    let text = "";
    const { reason, usage } = await inTurn(() => complete(body, gone.signal, (piece) => { text += piece; }));
    const message = { role: "assistant", content: text.trimEnd() };
    answer(response, 200, {
      ...head, object: "chat.completion", usage, choices: [{ index: 0, message, finish_reason: reason }],
    });
    return;
  }
  const send = (content) => response.write(`data: ${JSON.stringify(content)}\n\n`);
  const chunk = (delta, reason = null) => send({
    ...head, object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason: reason }],
  });
  const begin = () => {
    if (response.headersSent) return;
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    chunk({ role: "assistant", content: "" });
  };
  const { reason, usage } = await inTurn(() => complete(body, gone.signal, (piece) => {
    begin();
    chunk({ content: piece });
  }));
  begin();
  chunk({}, reason);
  send({ ...head, object: "chat.completion.chunk", choices: [], usage });
  response.end("data: [DONE]\n\n");
}

async function route(request, response) {
  try {
    if (request.method === "POST" && request.url === "/v1/chat/completions") await chat(request, response);
    else if (request.method === "GET" && request.url === "/v1/models") {
      answer(response, 200, { object: "list", data: [{ id: name, object: "model", owned_by: "local" }] });
    } else answer(response, 404, { error: { message: `there is no ${request.method} ${request.url}` } });
  } catch (error) {
    if (response.destroyed) return;
    if (response.headersSent) response.destroy();
    else answer(response, error instanceof Mistake ? 400 : 500, { error: { message: String(error.message) } });
  }
}

createServer(route).listen(Number(port), "127.0.0.1");
