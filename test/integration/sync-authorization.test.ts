import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { OfflineSyncService } from '../../src/service/offline-sync-service.ts';
import { type Actor, PERMISSIONS, type Permission } from '../../src/types/actor.ts';
import { rowsOf } from '../harness/service-bench.ts';
import {
  ALICE,
  BOB,
  BRANCH_A,
  BRANCH_B,
  createSyncBench,
  Device,
  MANAGER,
  managerOf,
  ORGANIZATION,
  OTHER_ORGANIZATION,
  type SyncBench,
} from '../harness/sync-bench.ts';

let bench: SyncBench;
/** Of Alice, in branch A: a device, an operation in conflict, one that waits in another device, a session. */
let made: {
  readonly visit: string;
  readonly device: Device;
  readonly operationId: string;
  readonly conflict: { readonly conflictId: string; readonly seenVersion: number };
  readonly waiting: { readonly operationId: string; readonly deviceId: string };
  readonly sessionId: string;
};
beforeAll(async () => {
  bench = await createSyncBench();
  const alice = bench.as(ALICE);
  const visit = await bench.aVisit({ branch_id: BRANCH_A, notes: 'theirs' });
  const [device, other] = [new Device(), new Device()];
  const operation = {
    operation: 'UPDATE',
    entityType: 'VISIT',
    entityId: visit,
    payload: { notes: 'mine' },
  } as const;
  const { operationId } = await alice.queueOperation({ ...device.does(operation), branchId: BRANCH_A });
  await alice.processPendingOperations(device.deviceId);
  const conflictId = (await managerOf(bench).getOperation(operationId)).conflictId ?? '';
  const seenVersion = (await managerOf(bench).getConflict(conflictId)).serverVersionNumber;
  const entityId = await bench.aVisit({ branch_id: BRANCH_A });
  const waiting = await alice.queueOperation({
    ...other.does({ ...operation, entityId }),
    branchId: BRANCH_A,
  });
  const session = await alice.startOfflineSession(ALICE, device.deviceId, ORGANIZATION);
  made = {
    visit,
    device,
    operationId,
    conflict: { conflictId, seenVersion },
    waiting: { operationId: waiting.operationId, deviceId: other.deviceId },
    sessionId: session.id,
  };
});
afterAll(() => bench[Symbol.asyncDispose]());

/** What an outsider gets. NOTHING: an answer without anything of others in it. */
type Refusal = 'NOT_FOUND' | 'FORBIDDEN' | 'NOTHING';
interface Method {
  /** Permissions of which one is enough; `sync:admin` always is. */
  readonly allowed: readonly Permission[];
  readonly outsider: Refusal;
  readonly call: (service: OfflineSyncService) => Promise<unknown>;
}

const anOperation = () => ({
  ...made.device.does({
    operation: 'UPDATE',
    entityType: 'VISIT',
    entityId: made.visit,
    payload: { minutes: 3 },
  }),
  organizationId: ORGANIZATION,
  branchId: BRANCH_A,
});
const notes = { payload: { notes: 'x' } };
const decision = () => ({ ...made.conflict, strategy: 'SERVER_WINS' }) as const;

/** Every public method. */
const methods: Readonly<Record<string, Method>> = {
  queueOperation: {
    allowed: ['sync:write'],
    outsider: 'FORBIDDEN',
    call: (s) => s.queueOperation(anOperation()),
  },
  queueOperations: {
    allowed: ['sync:write'],
    outsider: 'FORBIDDEN',
    call: async (s) => {
      for (const answer of await s.queueOperations([anOperation()])) {
        if (answer.status === 'REJECTED') throw answer;
      }
      return 'taken';
    },
  },
  readForOffline: {
    allowed: ['sync:write', 'sync:read'],
    outsider: 'NOTHING',
    call: (s) => s.readForOffline('VISIT', [made.visit]),
  },
  processPendingOperations: {
    allowed: ['sync:write'],
    outsider: 'NOTHING',
    call: async (s) => (await s.processPendingOperations(made.waiting.deviceId)).processed,
  },
  processQueueItem: {
    allowed: ['sync:write'],
    outsider: 'NOT_FOUND',
    call: (s) => s.processQueueItem(made.waiting.operationId),
  },
  getOperation: {
    allowed: ['sync:write', 'sync:read', 'sync:resolve'],
    outsider: 'NOT_FOUND',
    call: (s) => s.getOperation(made.operationId),
  },
  getOperationStates: {
    allowed: ['sync:write'],
    outsider: 'NOTHING',
    call: (s) => s.getOperationStates([made.operationId]),
  },
  listOperations: {
    allowed: ['sync:read'],
    outsider: 'NOTHING',
    call: async (s) => (await s.listOperations()).items,
  },
  approveOperation: {
    allowed: ['sync:resolve'],
    outsider: 'NOT_FOUND',
    call: (s) => s.approveOperation(made.operationId),
  },
  refuseOperation: {
    allowed: ['sync:resolve'],
    outsider: 'NOT_FOUND',
    call: (s) => s.refuseOperation(made.operationId),
  },
  pauseOperation: {
    allowed: [],
    outsider: 'NOT_FOUND',
    call: (s) => s.pauseOperation(made.waiting.operationId),
  },
  resumeOperation: {
    allowed: [],
    outsider: 'NOT_FOUND',
    call: (s) => s.resumeOperation(made.waiting.operationId),
  },
  editOperation: {
    allowed: [],
    outsider: 'NOT_FOUND',
    call: (s) => s.editOperation(made.waiting.operationId, notes),
  },
  redriveOperation: {
    allowed: [],
    outsider: 'NOT_FOUND',
    call: (s) => s.redriveOperation(made.waiting.operationId),
  },
  cancelOperation: {
    allowed: [],
    outsider: 'NOT_FOUND',
    call: (s) => s.cancelOperation(made.waiting.operationId),
  },
  getConflict: {
    allowed: ['sync:read', 'sync:resolve'],
    outsider: 'NOT_FOUND',
    call: (s) => s.getConflict(made.conflict.conflictId),
  },
  listConflicts: {
    allowed: ['sync:read', 'sync:resolve'],
    outsider: 'NOTHING',
    call: async (s) => (await s.listConflicts()).items,
  },
  assignConflict: {
    allowed: ['sync:resolve'],
    outsider: 'NOT_FOUND',
    call: (s) => s.assignConflict(made.conflict.conflictId, BOB),
  },
  resolveConflict: {
    allowed: ['sync:resolve'],
    outsider: 'NOT_FOUND',
    call: (s) => s.resolveConflict(decision()),
  },
  resolveConflicts: {
    allowed: ['sync:resolve'],
    outsider: 'NOT_FOUND',
    call: async (s) => {
      for (const answer of await s.resolveConflicts([decision()])) {
        if ('error' in answer) throw answer.error;
      }
      return 'decided';
    },
  },
  startOfflineSession: {
    allowed: ['sync:write'],
    outsider: 'FORBIDDEN',
    call: (s) => s.startOfflineSession(ALICE, made.device.deviceId, ORGANIZATION),
  },
  updateNetworkStatus: {
    allowed: ['sync:write'],
    outsider: 'NOT_FOUND',
    call: (s) => s.updateNetworkStatus(made.sessionId, { online: true }),
  },
  endOfflineSession: {
    allowed: ['sync:write'],
    outsider: 'NOT_FOUND',
    call: (s) => s.endOfflineSession(made.sessionId),
  },
  getSyncStatistics: {
    allowed: ['sync:read'],
    outsider: 'NOTHING',
    call: async (s) => (await s.getSyncStatistics()).total,
  },
  getSyncEvents: {
    allowed: ['sync:read'],
    outsider: 'NOTHING',
    call: async (s) => (await s.getSyncEvents()).items,
  },
  getDeviceHealth: {
    allowed: ['sync:read'],
    outsider: 'NOT_FOUND',
    call: (s) => s.getDeviceHealth(made.device.deviceId),
  },
};
const cases = Object.entries(methods);

/** What a call comes to: a code, NOTHING, or DONE. */
const outcome = (call: Promise<unknown> | undefined): Promise<string> =>
  Promise.resolve(call).then(
    (answer) => (answer === 0 || (Array.isArray(answer) && answer.length === 0) ? 'NOTHING' : 'DONE'),
    (error: { code?: string }) => error.code ?? String(error),
  );

const state = (): Promise<string> =>
  rowsOf(bench.database.pool, [
    'care_backup.offline_sync_queue',
    'care_backup.sync_operation_ids',
    'care_backup.sync_conflicts',
    'care_backup.sync_events',
    'care_backup.sync_entity_state',
    'care_backup.offline_sessions',
    'care_backup.audit_log',
    'public.visits',
  ]);

async function comesTo(expected: string, actor: Partial<Actor>, name: string): Promise<void> {
  const before = await state();
  expect(await outcome(methods[name]?.call(bench.as(BOB, actor))), name).toBe(expected);
  expect(await state(), name).toBe(before);
}

test('none is forgotten', () => {
  expect(Object.keys(methods).sort()).toEqual(
    Object.getOwnPropertyNames(OfflineSyncService.prototype)
      .filter((name) => name !== 'constructor')
      .sort(),
  );
});

describe('each method, with all permissions', () => {
  const outsiders: Readonly<Record<string, Partial<Actor>>> = {
    'of another organization': { organizationId: OTHER_ORGANIZATION },
    'of another organization, limited to the same branch': {
      organizationId: OTHER_ORGANIZATION,
      branchIds: [BRANCH_A],
    },
    'of another branch': { branchIds: [BRANCH_B] },
    'of no branch': { branchIds: [] },
  };
  test.each(Object.keys(outsiders))('to somebody %s shows nothing and does nothing', async (name) => {
    for (const [method, { outsider }] of cases) {
      await comesTo(outsider, { ...outsiders[name], permissions: PERMISSIONS }, method);
    }
  });
});

test('each method is FORBIDDEN with all permissions but those that allow it, and does nothing', async () => {
  for (const [method, { allowed }] of cases) {
    const permissions = PERMISSIONS.filter((one) => one !== 'sync:admin' && !allowed.includes(one));
    await comesTo('FORBIDDEN', { permissions }, method);
    await comesTo('FORBIDDEN', { permissions: [] }, method);
  }
});

test('guessed ids are not found', async () => {
  const before = made;
  const [operationId, conflictId, sessionId, deviceId] = Array.from({ length: 4 }, () => randomUUID()) as [
    string,
    string,
    string,
    string,
  ];
  made = {
    ...before,
    device: new Device(deviceId),
    operationId,
    conflict: { conflictId, seenVersion: 1 },
    waiting: { operationId, deviceId },
    sessionId,
  };
  for (const [name, { outsider, call }] of cases) {
    if (outsider === 'NOT_FOUND') {
      expect(await outcome(call(bench.as(ALICE, { permissions: PERMISSIONS }))), name).toBe('NOT_FOUND');
    }
  }
  made = before;
});

// Last, since it changes what the others look at.
test('each call of these tests is let through where it is the author’s own or a manager’s', async () => {
  for (const [name, { call }] of cases) {
    const codes = [];
    for (const one of [ALICE, MANAGER])
      codes.push(await outcome(call(bench.as(one, { permissions: PERMISSIONS }))));
    expect(
      codes.some((code) => code !== 'FORBIDDEN' && code !== 'NOT_FOUND'),
      `${name} ${codes}`,
    ).toBe(true);
  }
});
