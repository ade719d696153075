// Records what llhttp, as Node has it, makes of each input: node llhttp.js INPUTS > ../recorded/llhttp.txt
// The format is described in ../recorded.rs. Bytes are fed one at a time, so that a message's end has a place.
'use strict';

const fs = require('fs');
const { HTTPParser, allMethods } = process.binding('http_parser');

const MASK = (1n << 64n) - 1n;
function fnv(bytes) {
  let hash = 0xcbf29ce484222325n;
  for (const byte of bytes) hash = ((hash ^ BigInt(byte)) * 0x100000001b3n) & MASK;
  return hash;
}
const hex = (number) => number.toString(16).padStart(16, '0');

function encode(text) {
  let out = '';
  for (const byte of Buffer.from(text, 'latin1')) {
    const char = String.fromCharCode(byte);
    out += /[A-Za-z0-9\/?&=._*-]/.test(char) ? char : '%' + byte.toString(16).padStart(2, '0');
  }
  return out;
}

const LEFT_OUT = ['content-length', 'host', 'trailer', 'transfer-encoding'];

function read(input) {
  const parser = new HTTPParser();
  parser.initialize(HTTPParser.REQUEST, {});
  const items = [];
  let flushed = [];
  let flushedUrl = '';
  let current = null;
  let done = null;
  let at = 0;
  parser[HTTPParser.kOnHeaders | 0] = (headers, url) => {
    // Trailers come this way too.
    if (current !== null) return;
    flushed = flushed.concat(headers);
    flushedUrl += url;
  };
  parser[HTTPParser.kOnHeadersComplete | 0] = (major, minor, headers, method, url, status, text, upgrade, keepAlive) => {
    const raw = headers === undefined ? flushed : flushed.concat(headers);
    flushed = [];
    const fields = [];
    for (let i = 0; i < raw.length; i += 2) fields.push([raw[i].toLowerCase(), raw[i + 1]]);
    const host = fields.find(([name]) => name === 'host');
    const kept = fields.map((field, index) => [...field, index]).filter(([name]) => !LEFT_OUT.includes(name));
    kept.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[2] - b[2]));
    const lines = kept.map(([name, value]) => `${name}:${value}\n`).join('');
    current = {
      head: `${major}.${minor}:${encode(typeof method === 'number' ? allMethods[method] : method)}:${encode(url || flushedUrl)}:` +
        `${encode(host ? host[1] : '')}:${lines === '' ? '-' : hex(fnv(Buffer.from(lines, 'latin1')))}`,
      keepAlive,
      upgrade,
      body: [],
    };
    flushedUrl = '';
    return 0;
  };
  parser[HTTPParser.kOnBody | 0] = (chunk, start, length) => {
    const piece = start === undefined ? chunk : chunk.subarray(start, start + length);
    current.body.push(...piece);
  };
  parser[HTTPParser.kOnMessageComplete | 0] = () => {
    const { head, keepAlive, upgrade, body } = current;
    items.push(`${at + 1}:${upgrade ? '-' : keepAlive ? 1 : 0}:${head}:${body.length === 0 ? '0' : `${body.length}.${hex(fnv(body))}`}`);
    if (upgrade || !keepAlive) done = '.';
    current = null;
  };
  for (at = 0; at < input.length && done === null; at++) {
    const result = parser.execute(input.subarray(at, at + 1));
    if (result instanceof Error && done === null) {
      done = `!${encode(result.code)}`;
    }
  }
  if (current !== null) {
    const reason = done === null ? '!EOF' : done;
    items.push(`-:${current.keepAlive ? 1 : 0}:${current.head}:${reason}`);
    done = '.';
  }
  items.push(done === null ? '~' : done);
  return items.join(' ');
}

const inputs = fs.readFileSync(process.argv[2], 'latin1').trimEnd().split('\n').map((line) => Buffer.from(line, 'hex'));
let all = 0xcbf29ce484222325n;
for (const input of inputs) all = (((all << 7n) | (all >> 57n)) & MASK) ^ fnv(input);
const lines = inputs.map(read);
process.stdout.write(`Node ${process.versions.node}, llhttp ${process.versions.llhttp} ${hex(all)}\n${lines.join('\n')}\n`);
