import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { withField } from '../../examples/field-visit/field.ts';
import { runScenario } from '../../examples/field-visit/scenario.ts';
import { createTestDatabase } from '../harness/postgres.ts';
import { benchKeyring } from '../harness/service-bench.ts';

const LIMIT_MS = 60_000;

test('the field visit is as its story says', { timeout: LIMIT_MS }, async () => {
  await using database = await createTestDatabase({ migrated: false });
  const lines: string[] = [];
  const findings = await withField({ url: database.url, keys: benchKeyring() }, (field) =>
    runScenario(field, { say: (line) => lines.push(line) }),
  );
  expect(lines).toHaveLength(6);
  expect(findings).toMatchObject({
    once: { held: true },
    order: { held: true },
    nothingLost: { held: true },
  });
});

test('the server refuses what it must, and says no more than it should', { timeout: LIMIT_MS }, async () => {
  await using database = await createTestDatabase({ migrated: false });
  await withField({ url: database.url, keys: benchKeyring() }, async ({ url }) => {
    const ask = async (token: string, path: string, body: string, method = 'POST') => {
      const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
      const response = await fetch(`${url}${path}`, { method, headers, body });
      return { status: response.status, ...((await response.json()) as { code?: string; message?: string }) };
    };
    const states = JSON.stringify({ protocol: 1, operationIds: [] });
    const resolution = JSON.stringify({
      protocol: 1,
      resolution: { strategy: 'CLIENT_WINS', seenVersion: 1 },
    });
    const conflict = `/conflicts/${randomUUID()}/resolve`;
    expect(await ask('token-ana', '/sync/states', states)).toMatchObject({ status: 200 });
    for (const token of ['', 'constructor', 'token-nobody']) {
      expect(await ask(token, '/sync/states', states)).toMatchObject({ status: 401, code: 'NOT_LOGGED_IN' });
    }
    expect(await ask('token-ana', '/sync/states', '{"secret')).toEqual({
      status: 400,
      code: 'BAD_REQUEST',
      message: 'The request cannot be read',
      retryable: false,
    });
    expect(
      await ask('token-ana', '/sync/states', JSON.stringify({ x: 'x'.repeat(1_200_000) })),
    ).toMatchObject({ status: 413, code: 'BAD_REQUEST' });
    for (const operations of [undefined, 'all', {}]) {
      const push = JSON.stringify({ protocol: 1, deviceId: 'd', operations });
      expect(await ask('token-ana', '/sync/push', push)).toMatchObject({ code: 'VALIDATION_FAILED' });
    }
    const bad = JSON.stringify({ protocol: 1, deviceId: 'd', operations: [null, 'x', { operation: 'EAT' }] });
    expect(await ask('token-ana', '/sync/push', bad)).toMatchObject({
      status: 200,
      answers: [{ status: 'REJECTED' }, { status: 'REJECTED' }, { status: 'REJECTED' }],
    });
    expect(await ask('token-ana', conflict, resolution)).toMatchObject({ status: 403, code: 'FORBIDDEN' });
    expect(await ask('token-supervisor', conflict, resolution)).toMatchObject({
      status: 404,
      code: 'NOT_FOUND',
    });
    const session = JSON.stringify({ protocol: 1, sessionId: randomUUID() });
    expect(await ask('token-ana', '/sessions', session, 'PATCH')).toMatchObject({ status: 404 });
  });
});
