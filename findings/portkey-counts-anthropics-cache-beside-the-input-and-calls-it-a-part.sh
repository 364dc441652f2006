#!/usr/bin/env bash
# @portkey-ai/gateway 1.15.2 with ai 6.0.326 and @ai-sdk/openai-compatible 2.0.92
#
# Portkey's gateway answers in OpenAI's form, where cached tokens are a part of prompt_tokens and reasoning is a part of
# completion_tokens. Its prompt_tokens for Anthropic leave out what the cache had, and yet prompt_tokens_details has it, so
# that the part is larger than the whole; its completion_tokens for Gemini leave out the reasoning in their own details. Only
# total_tokens has all. The AI SDK takes the parts from the wholes: some of the input is fewer than no tokens, a text has 0,
# and its own total, a new sum, is a fifth of Anthropic's.
#
# Seen:
#   anthropic, 1000 in (300 read, 500 written), 9 out: Portkey 200 + 9, total 1009; ai: plain -100, text 9, total 209
#   google, 1000 in (300 read), 49 out (40 reasoning): Portkey 1000 + 9, total 1049; ai: plain 700, text 0, total 1009
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2> /dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund --ignore-scripts \
    @portkey-ai/gateway@1.15.2 ai@6.0.326 @ai-sdk/openai-compatible@2.0.92 zod@4.1.12
cat > loopback.mjs <<'JAVASCRIPT'
// The gateway would listen at every address.
import net from 'node:net';

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, port, '127.0.0.1', ...rest.filter(it => typeof it === 'function'));
};
JAVASCRIPT
cat > ask.mjs <<'JAVASCRIPT'
import http from 'node:http';

import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText } from 'ai';

const ANTHROPIC = {
  id: 'msg_1', type: 'message', role: 'assistant', model: 'claude-sonnet-4-5', stop_reason: 'end_turn',
  stop_sequence: null, content: [{ type: 'text', text: 'Red' }],
  usage: { input_tokens: 200, cache_read_input_tokens: 300, cache_creation_input_tokens: 500, output_tokens: 9 },
};
const GOOGLE = {
  candidates: [{ index: 0, content: { role: 'model', parts: [{ text: 'Red' }] }, finishReason: 'STOP' }],
  usageMetadata: {
    promptTokenCount: 1000, cachedContentTokenCount: 300, candidatesTokenCount: 9, thoughtsTokenCount: 40,
    totalTokenCount: 1049,
  },
};
const provider = http.createServer((request, response) => {
  request.resume().on('end', () => {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(request.url.includes('enerateContent') ? GOOGLE : ANTHROPIC));
  });
});
await new Promise(ready => provider.listen(0, '127.0.0.1', ready));
const baseURL = `http://127.0.0.1:${process.argv[2]}/v1`;
for (let tries = 0; tries < 600; tries++) {
  if (await fetch(baseURL).catch(() => null)) break;
  await new Promise(passed => setTimeout(passed, 100));
}
for (const [name, path, what] of [
  ['anthropic', '/v1', '1000 in (300 read, 500 written), 9 out'],
  ['google', '/v1beta', '1000 in (300 read), 49 out (40 reasoning)'],
]) {
  const host = `http://127.0.0.1:${provider.address().port}${path}`;
  const headers = { 'x-portkey-provider': name, 'x-portkey-custom-host': host };
  const model = createOpenAICompatible({ name: 'portkey', baseURL, apiKey: 'none', headers })('a-model');
  const { usage } = await generateText({ model, prompt: 'A colour', maxRetries: 0 });
  const { prompt_tokens, completion_tokens, total_tokens } = usage.raw;
  const { inputTokenDetails, outputTokenDetails, totalTokens } = usage;
  console.log(
    `${name}, ${what}: Portkey ${prompt_tokens} + ${completion_tokens}, total ${total_tokens}; ` +
      `ai: plain ${inputTokenDetails.noCacheTokens}, text ${outputTokenDetails.textTokens}, total ${totalTokens}`,
  );
}
provider.close();
JAVASCRIPT
port=$(python3 -c 'import socket; it = socket.create_server(("127.0.0.1", 0)); print(it.getsockname()[1])')
node --import ./loopback.mjs node_modules/@portkey-ai/gateway/build/start-server.js "--port=$port" --headless > log 2>&1 &
server=$!
timeout 120 node ask.mjs "$port" | tee seen
diff seen - <<'SEEN'
anthropic, 1000 in (300 read, 500 written), 9 out: Portkey 200 + 9, total 1009; ai: plain -100, text 9, total 209
google, 1000 in (300 read), 49 out (40 reasoning): Portkey 1000 + 9, total 1049; ai: plain 700, text 0, total 1009
SEEN
