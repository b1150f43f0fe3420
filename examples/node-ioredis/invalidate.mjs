// Ends entries of an unstale cache from Node.js, by one EVALSHA.
//
//     npm ci
//     unstale wire script invalidate > invalidate.lua      # with each deploy
//     node invalidate.mjs redis://127.0.0.1:6379/0 shop product:17 catalog
//
// Publish after the commit, as the services in Python do. docs/reference/wire.md explains every argument.

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';

import Redis from 'ioredis';

const RECORDS_MAX = 100_000; // the log is trimmed to about so many records
const MARK_LIFE_MS = 2 * 7 * 24 * 3600 * 1000; // twice max_ttl, which is "7d" unless the services say otherwise

/** Gives a function that invalidates scopes of one cache. */
export function invalidator(redis, name, script, prefix = 'unstale') {
  const tag = `{${prefix}:${name}}`; // all these keys lie on one server of a cluster
  const marks = `${tag}:m:`;
  // ioredis sends EVALSHA, and the text only when the server does not know it (NOSCRIPT).
  redis.defineCommand('unstaleInvalidate', { lua: script });

  return async function invalidate(scopes, { soft = false, why = '' } = {}) {
    const keys = ['meta', 'log', 'ids', 'members'].map((kind) => `${tag}:${kind}`);
    keys.push(...scopes.map((scope) => marks + scope));
    const id = randomBytes(10).toString('hex'); // kept while a call is repeated: the same id is published once
    const answer = await redis.unstaleInvalidate(
      keys.length, ...keys,
      randomBytes(8).toString('hex'), // names a new generation, if one has to begin
      RECORDS_MAX, MARK_LIFE_MS, id, soft ? 's' : 'h', `${hostname()}:${process.pid}`, why, marks,
    );
    const [generation, position] = answer;
    return { generation, position };
  };
}

const [url, name, ...scopes] = process.argv.slice(2);
if (!url || !name || scopes.length === 0) {
  console.error('usage: node invalidate.mjs URL NAME SCOPE...');
  process.exit(2);
}
const redis = new Redis(url, { maxRetriesPerRequest: 2, connectTimeout: 1000, commandTimeout: 1000 });
redis.on('error', () => {}); // the call below tells
try {
  const invalidate = invalidator(redis, name, readFileSync('invalidate.lua', 'utf8'));
  const { generation, position } = await invalidate(scopes, { why: 'told by Node.js' });
  console.log(`${generation}.${position}`); // a ticket: cache.get(key, after=Ticket.parse(...)) waits for it
} catch (error) {
  console.error(`not published, others serve the old value up to its ttl: ${error.message}`);
  process.exitCode = 1;
} finally {
  redis.disconnect();
}
