import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { allowedBranches, requireOwnOrganization, requirePermission } from '../../src/service/authorize.ts';
import { boundActor } from '../../src/service/bound-actor.ts';
import { enterOutcome } from '../../src/service/catalog-end.ts';
import { EventBus } from '../../src/service/event-bus.ts';
import { asBackupError, failureOf, keyFailure, orAborted } from '../../src/service/failure.ts';
import { RunningWork } from '../../src/service/running-work.ts';
import { PERMISSIONS } from '../../src/types/actor.ts';
import { BackupError, DataProtectionError, StorageError } from '../../src/types/errors.ts';

const ORGANIZATION = '018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d6e';
const BRANCH = '018f4d3e-7a2b-7c11-9a55-3f2a1b4c5d6f';
const actor = boundActor({
  userId: ORGANIZATION,
  organizationId: ORGANIZATION.toUpperCase(),
  branchIds: [BRANCH.toUpperCase()],
  permissions: ['backup:read', 'visits:read'],
  deviceId: 'tablet',
});
const clock = { now: () => new Date(0) };

describe('boundActor', () => {
  test('keeps what is the library’s, in lower case', () => {
    expect(actor).toEqual({
      userId: ORGANIZATION,
      organizationId: ORGANIZATION,
      branchIds: [BRANCH],
      permissions: ['backup:read'],
      deviceId: 'tablet',
    });
  });

  test('names every problem at once', () => {
    const wrong = { userId: 1, organizationId: 'x', branchIds: 'SOME', permissions: {}, deviceId: 5 };
    expect(() => boundActor(wrong)).toThrow(
      expect.objectContaining({
        code: 'VALIDATION_FAILED',
        issues: ['userId', 'organizationId', 'branchIds', 'permissions', 'deviceId'].map((path) =>
          expect.objectContaining({ path }),
        ),
      }),
    );
  });
});

describe('permissions and branches', () => {
  test.each(PERMISSIONS)('%s is implied by the admin of its kind and by no other', (permission) => {
    const kind = permission.split(':')[0];
    const other = kind === 'backup' ? 'sync:admin' : 'backup:admin';
    const own = PERMISSIONS.find((name) => name === `${kind}:admin`) ?? permission;
    requirePermission({ ...actor, permissions: [permission] }, permission);
    requirePermission({ ...actor, permissions: [own] }, permission);
    expect(() => requirePermission({ ...actor, permissions: [other] }, permission)).toThrow(
      DataProtectionError,
    );
  });

  test('what is asked for stays within the actor’s', () => {
    expect(allowedBranches({ ...actor, branchIds: 'ALL' }, null)).toBeNull();
    expect(allowedBranches({ ...actor, branchIds: 'ALL' }, [BRANCH])).toEqual([BRANCH]);
    expect(allowedBranches(actor, null)).toEqual([BRANCH]);
    expect(allowedBranches(actor, [BRANCH])).toEqual([BRANCH]);
    for (const asked of [[ORGANIZATION], [BRANCH, ORGANIZATION]]) {
      expect(() => allowedBranches(actor, asked)).toThrow(expect.objectContaining({ code: 'FORBIDDEN' }));
    }
    for (const asked of [null, [], [BRANCH]]) {
      const nowhere = { ...actor, branchIds: [] };
      expect(() => allowedBranches(nowhere, asked)).toThrow(expect.objectContaining({ code: 'FORBIDDEN' }));
    }
  });

  test('an organization that is said must be the actor’s', () => {
    requireOwnOrganization(actor, undefined);
    requireOwnOrganization(actor, ORGANIZATION);
    expect(() => requireOwnOrganization(actor, BRANCH)).toThrow(
      expect.objectContaining({ code: 'FORBIDDEN' }),
    );
  });
});

describe('failures', () => {
  test('of others are told without their words', () => {
    const foreign = new Error('PLANTED');
    expect(JSON.stringify(failureOf(foreign, clock))).not.toContain('PLANTED');
    const error = asBackupError(foreign, ORGANIZATION);
    expect([error.message, error.code, JSON.stringify(error)].join()).not.toContain('PLANTED');
    expect(keyFailure(foreign)).toMatchObject({
      code: 'KEY_UNAVAILABLE',
      message: expect.not.stringContaining('PLANTED'),
    });
  });

  test('of the library keep code and retryability', () => {
    const error = asBackupError(new StorageError('full', 'STORAGE_FULL'), ORGANIZATION);
    expect(error).toBeInstanceOf(BackupError);
    expect(error).toMatchObject({ code: 'STORAGE_FULL', snapshotId: ORGANIZATION, message: 'full' });
    expect(asBackupError(error, BRANCH)).toBe(error);
  });

  test('orAborted does not wait for what never answers, and leaves no listener', async () => {
    const stop = new AbortController();
    const waiting = orAborted(new Promise(() => undefined), stop.signal);
    stop.abort(new Error('stopped'));
    await expect(waiting).rejects.toThrow('stopped');
    await expect(
      orAborted(Promise.resolve(1), stop.signal).catch((error: Error) => error.message),
    ).resolves.toBeDefined();
    await expect(orAborted(Promise.resolve(1), new AbortController().signal)).resolves.toBe(1);
  });
});

describe('enterOutcome', () => {
  test('repeats while the database cannot be reached, and not otherwise', async () => {
    const lost = new DataProtectionError('lost', 'DATABASE_UNAVAILABLE');
    let tries = 0;
    const thirdTime = (): Promise<string> => {
      tries += 1;
      return tries < 3 ? Promise.reject(lost) : Promise.resolve('entered');
    };
    expect(await enterOutcome(thirdTime)).toBe('entered');
    await expect(enterOutcome(() => Promise.reject(lost))).rejects.toBe(lost);
    tries = 0;
    const wrong = new DataProtectionError('wrong', 'DATABASE_FAILED');
    const failing = (): Promise<never> => {
      tries += 1;
      return Promise.reject(wrong);
    };
    await expect(enterOutcome(failing)).rejects.toBe(wrong);
    expect(tries).toBe(1);
  });
});

describe('events', () => {
  const about = { snapshotId: ORGANIZATION, organizationId: ORGANIZATION };

  test('come in order, to all, whatever one of them throws or rejects with, until the subscription ends', async () => {
    const failures: string[] = [];
    const silent = (): void => undefined;
    const logger = {
      debug: silent,
      info: silent,
      warn: silent,
      error: (_: unknown, message: string) => void failures.push(message),
    };
    const bus = new EventBus(logger);
    const heard: number[] = [];
    const end = bus.on('snapshot.cancelled', () => heard.push(1));
    bus.on('snapshot.cancelled', () => {
      throw new Error('at once');
    });
    bus.on('snapshot.cancelled', () => Promise.reject(new Error('later')));
    bus.on('snapshot.cancelled', () => heard.push(2));
    bus.emit('snapshot.cancelled', about);
    end();
    bus.emit('snapshot.cancelled', about);
    await sleep(5);
    expect(heard).toEqual([1, 2, 2]);
    expect(failures).toHaveLength(4);
  });
});

describe('running work', () => {
  test('is cancelled with the reason, waited for, and forgotten when it ends', async () => {
    const work = new RunningWork();
    const run = work.start('a', (signal) => orAborted(new Promise<string>(() => undefined), signal));
    const ended = run.catch((error: Error) => error.message);
    expect(await work.cancel('b', new Error('no'))).toBe(false);
    expect(await work.cancel('a', new Error('enough'))).toBe(true);
    expect(await ended).toBe('enough');
    expect(await work.cancel('a', new Error('again'))).toBe(false);
    await work.ended();
  });

  test('ended waits also for what begins while it waits', async () => {
    const work = new RunningWork();
    const done: string[] = [];
    void work.start('a', async () => {
      await sleep(10);
      void work.start('b', async () => {
        await sleep(10);
        done.push('b');
      });
      done.push('a');
    });
    await work.ended();
    expect(done).toEqual(['a', 'b']);
  });
});
