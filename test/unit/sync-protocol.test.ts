import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import * as z from 'zod';
import { SYNC_MESSAGES, SYNC_PROTOCOL_VERSION, type SyncMessageName } from '../../src/sync/messages.ts';
import { STATUS_CHANGES } from '../../src/sync/states.ts';
import { SYNC_QUEUE_STATUSES } from '../../src/types/offline-sync.ts';
import { SYNC_REASONS } from '../../src/types/sync-reasons.ts';

const document = readFileSync(new URL('../../docs/sync-protocol.md', import.meta.url), 'utf8');
const rows = (heading: string): string[][] => {
  const section = document.split(`${heading}\n`)[1]?.split(/\n#/)[0] ?? '';
  return section
    .split('\n')
    .filter((line) => line.startsWith('|') && !line.startsWith('| ---'))
    .slice(1)
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
};

/** SHA-256 of the JSON Schemas of all messages. Where it changes, the version goes up, and both stand here. */
const HASHES: Readonly<Record<number, string>> = {
  1: 'bcee18649a3d74d161de764ee3b8b8aa6bf4db1da84a810d03e85c7cd87672c6',
};

test('a message does not change without the version', () => {
  const schemas = Object.entries(SYNC_MESSAGES).map(([name, schema]) => [
    name,
    z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }),
  ]);
  const hash = createHash('sha256').update(JSON.stringify(schemas)).digest('hex');
  expect({ version: SYNC_PROTOCOL_VERSION, hash }).toEqual({
    version: SYNC_PROTOCOL_VERSION,
    hash: HASHES[SYNC_PROTOCOL_VERSION],
  });
});

describe('the document', () => {
  const examples = [...document.matchAll(/```json\n([\s\S]*?)```/g)].map((match) => match[1] ?? '');
  /** In the order in which they stand. */
  const names: readonly SyncMessageName[] = [
    'PushRequest',
    'PushResponse',
    'ReadRequest',
    'ReadResponse',
    'StatesRequest',
    'StatesResponse',
    'ResolveRequest',
    'SessionStart',
    'SessionNetwork',
    'SessionEnd',
    'ErrorResponse',
  ];

  test('has an example of every message', () => {
    expect(examples).toHaveLength(names.length);
    expect([...names].sort()).toEqual(Object.keys(SYNC_MESSAGES).sort());
  });

  test.each(names.map((name, i) => [name, i] as const))('%s: its example is one', (name, i) => {
    const example: unknown = JSON.parse(examples[i] ?? '');
    expect(SYNC_MESSAGES[name].safeParse(example).error).toBeUndefined();
    expect(document).toContain(`\`${name}\``);
  });

  test('has the changes of statuses that the code and the database have', () => {
    const changes = Object.fromEntries(
      rows('### Statuses').map(([from = '', to = '']) => [from, to === '-' ? [] : to.split(', ').sort()]),
    );
    expect(changes).toEqual(
      Object.fromEntries(SYNC_QUEUE_STATUSES.map((from) => [from, [...STATUS_CHANGES[from]].sort()])),
    );
  });

  test('has every reason, as it is', () => {
    expect(Object.fromEntries(rows('### Reasons'))).toEqual(SYNC_REASONS);
  });
});

test('requests are strict, answers may hold more', () => {
  const request = { protocol: 1, entityType: 'VISIT', entityIds: [] };
  expect(SYNC_MESSAGES.ReadRequest.safeParse({ ...request, more: 1 }).success).toBe(false);
  expect(SYNC_MESSAGES.ReadResponse.safeParse({ protocol: 1, entities: [], more: 1 }).success).toBe(true);
  expect(SYNC_MESSAGES.ReadRequest.safeParse({ ...request, protocol: 2 }).success).toBe(false);
});
