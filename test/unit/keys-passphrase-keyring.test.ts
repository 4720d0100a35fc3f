import { argon2Sync, createSecretKey, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { inspect } from 'node:util';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { argon2id } from '../../src/keys/argon2id.ts';
import { derivedKeys } from '../../src/keys/derived-keys.ts';
import type { WrappedKey } from '../../src/keys/keys.ts';
import { passphraseBytes } from '../../src/keys/passphrase.ts';
import { decodeKeyId, encodeKeyId } from '../../src/keys/passphrase-key-id.ts';
import {
  type CurrentPassphraseKey,
  type NamedPassphrase,
  passphraseKeyring,
} from '../../src/keys/passphrase-keyring.ts';

/** Derivations as they ran. */
const ran = vi.hoisted(() => ({ count: 0, now: 0, most: 0 }));
vi.mock('../../src/keys/argon2id.ts', async (original) => {
  const real = await original<typeof import('../../src/keys/argon2id.ts')>();
  const counted: typeof real.argon2id = async (...given) => {
    ran.count += 1;
    ran.now += 1;
    ran.most = Math.max(ran.most, ran.now);
    try {
      return await real.argon2id(...given);
    } finally {
      ran.now -= 1;
    }
  };
  return { ...real, argon2id: counted };
});

const CONTEXT = { organizationId: 'o', configurationId: 'c', snapshotId: 's' };
const MAC = { organizationId: 'o', configurationId: 'c', purpose: 'sidecar' };
const CHEAP = { memoryKiB: 19_456, iterations: 2, parallelism: 1 };
const SALT = '000102030405060708090a0b0c0d0e0f';
const OLD = 'correct horse battery staple';
const NEW = 'other horses, better staples';
const REFUSED = { code: 'KEY_UNAVAILABLE', retryable: false };
const dataKey = new Uint8Array(randomBytes(32));

const named = (name: string, passphrase: string): NamedPassphrase => ({
  name,
  credentials: () => ({ passphrase }),
});
const old = named('old', OLD);
const current = (over: Partial<CurrentPassphraseKey> = {}): CurrentPassphraseKey => ({
  name: 'old',
  salt: SALT,
  ...CHEAP,
  ...over,
});
const keyring = (over: Partial<CurrentPassphraseKey> = {}) =>
  passphraseKeyring({ passphrases: [old], current: current(over) });
const onlyOpens = (...passphrases: NamedPassphrase[]) => passphraseKeyring({ passphrases });

beforeEach(() => {
  Object.assign(ran, { count: 0, most: 0 });
});
afterEach(() => {
  vi.useRealTimers();
});

describe('argon2id', () => {
  const hex = async (
    message: string,
    salt: string,
    iterations: number,
    memoryKiB: number,
    parallelism: number,
  ) =>
    Buffer.from(
      await argon2id(Buffer.from(message), { salt: Buffer.from(salt), iterations, memoryKiB, parallelism }),
    ).toString('hex');

  // src/test.c of the reference implementation (phc-winner-argon2), Argon2id, version 19.
  it.each([
    [
      'password',
      'somesalt',
      2,
      65_536,
      1,
      '09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7',
    ],
    ['password', 'somesalt', 2, 256, 1, '9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe'],
    ['password', 'somesalt', 2, 256, 2, '6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037'],
    [
      'password',
      'somesalt',
      1,
      65_536,
      1,
      'f6a5adc1ba723dddef9b5ac1d464e180fcd9dffc9d1cbf76cca2fed795d9ca98',
    ],
    [
      'password',
      'somesalt',
      4,
      65_536,
      1,
      '9025d48e68ef7395cca9079da4c4ec3affb3c8911fe4f86d1a2520856f63172c',
    ],
    [
      'password',
      'diffsalt',
      2,
      65_536,
      1,
      'bdf32b05ccc42eb15d58fd19b1f856b113da1e9a5874fdcc544308565aa8141c',
    ],
  ])('gives what the reference implementation gives: %s %s t=%i m=%i p=%i', async (...row) => {
    const [message, salt, iterations, memoryKiB, parallelism, expected] = row;
    expect(await hex(message, salt, iterations, memoryKiB, parallelism)).toBe(expected);
  });

  it('gives what OpenSSL gives, which gives what RFC 9106 says', async () => {
    // RFC 9106, 5.3: with a secret and associated data, which the package does not take.
    const rfc = argon2Sync('argon2id', {
      message: Buffer.alloc(32, 1),
      nonce: Buffer.alloc(16, 2),
      secret: Buffer.alloc(8, 3),
      associatedData: Buffer.alloc(12, 4),
      passes: 3,
      memory: 32,
      parallelism: 4,
      tagLength: 32,
    });
    expect(rfc.toString('hex')).toBe('0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659');
    const bytes = (minLength: number, maxLength: number) => fc.uint8Array({ minLength, maxLength });
    const cost = [
      fc.integer({ min: 64, max: 2048 }),
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 8 }),
    ] as const;
    await fc.assert(
      fc.asyncProperty(
        bytes(0, 200),
        bytes(16, 32),
        ...cost,
        async (message, salt, memoryKiB, iterations, lanes) => {
          const ours = await argon2id(message, { salt, memoryKiB, iterations, parallelism: lanes });
          const parameters = {
            message,
            nonce: salt,
            passes: iterations,
            memory: memoryKiB,
            parallelism: lanes,
          };
          const theirs = argon2Sync('argon2id', { ...parameters, tagLength: 32 });
          expect(Buffer.from(ours).equals(theirs)).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('throws an error of the library for parameters that it refuses', async () => {
    const refused = argon2id(Buffer.from('m'), { salt: Buffer.alloc(2), ...CHEAP });
    await expect(refused).rejects.toMatchObject(REFUSED);
  });
});

describe('the passphrase', () => {
  const said = (text: string) => passphraseBytes(text, 'p').toString('hex');

  it('is the same in every form that NFKC joins, and differs where it does not', () => {
    expect(said('Zürich Zürich Zürich')).toBe(said('Zürich Zürich Zürich'.normalize('NFD')));
    expect(said('ﬁfteen letters')).toBe(said('fifteen letters'));
    expect(said('fifteen  letters')).not.toBe(said('fifteen letters'));
    expect(said('Fifteen letters')).not.toBe(said('fifteen letters'));
  });

  it.each([
    ['fourteen chars', /shorter than 15/],
    ['', /shorter than 15/],
    ['🔑'.repeat(14), /shorter than 15/],
    [`${OLD}\n`, /white space/],
    [` ${OLD}`, /white space/],
    [`${OLD}\u00a0`, /white space/],
    [`\ufeff${OLD}`, /white space/],
    ['correct horse\u0000battery', /control character/],
    ['correct horse\tbattery', /control character/],
    ['correct horse \ud800 battery', /control character/],
    ['correct horse \u0378 battery', /not in Unicode/],
  ])('refuses %j, and does not repeat it', async (text, problem) => {
    const refused = keyringWith(text).wrap(dataKey, CONTEXT);
    // An empty field is none.
    const expected = text === '' ? { code: 'CREDENTIALS_UNAVAILABLE' } : { code: 'CONFIGURATION_INVALID' };
    await expect(refused).rejects.toMatchObject(expected);
    if (text === '') return;
    await expect(refused).rejects.toThrow(problem);
    const error = await refused.catch((e: unknown) => e);
    expect(inspect(error, { depth: 9, showHidden: true }).includes(text)).toBe(false);
    expect(ran.count).toBe(0);
  });

  it('may be 15 characters of any script', () => {
    expect(() => said('🔑'.repeat(15))).not.toThrow();
    expect(() => said('пятнадцать букв')).not.toThrow();
  });

  const keyringWith = (passphrase: string) =>
    passphraseKeyring({ passphrases: [named('old', passphrase)], current: current() });
});

describe('the id of a key', () => {
  it('holds all that deriving takes besides the passphrase', async () => {
    const id = `passphrase:old:argon2id:v19:m19456:t2:p1:${SALT}`;
    expect(await keyring().currentKeyId()).toBe(id);
    expect(ran.count).toBe(0);
    expect(decodeKeyId(id)).toEqual({
      name: 'old',
      ...CHEAP,
      salt: new Uint8Array(Buffer.from(SALT, 'hex')),
    });
  });

  it('is of 64 MiB, 3 iterations and 4 lanes unless said', async () => {
    const keys = passphraseKeyring({ passphrases: [old], current: { name: 'old', salt: SALT } });
    expect(await keys.currentKeyId()).toBe(`passphrase:old:argon2id:v19:m65536:t3:p4:${SALT}`);
  });

  it('has one form, within what ids may be', () => {
    const number = fc.integer({ min: 1, max: 2 ** 32 });
    const name = fc.stringMatching(/^[A-Za-z0-9._-]{1,64}$/);
    fc.assert(
      fc.property(name, number, number, number, fc.uint8Array({ minLength: 16, maxLength: 32 }), (...of) => {
        const [text, memoryKiB, iterations, parallelism, salt] = of;
        const id = { name: text, memoryKiB, iterations, parallelism, salt };
        expect(encodeKeyId(id)).toMatch(/^[A-Za-z0-9._:/-]{1,255}$/);
        expect(decodeKeyId(encodeKeyId(id))).toEqual(id);
      }),
    );
  });

  it.each([
    'passphrase:old:argon2id:v16:m19456:t2:p1:000102030405060708090a0b0c0d0e0f',
    'passphrase:old:argon2i:v19:m19456:t2:p1:000102030405060708090a0b0c0d0e0f',
    'passphrase:old:argon2id:v19:m019456:t2:p1:000102030405060708090a0b0c0d0e0f',
    'passphrase:old:argon2id:v19:m19456:t0:p1:000102030405060708090a0b0c0d0e0f',
    'passphrase:old:argon2id:v19:m-1:t2:p1:000102030405060708090a0b0c0d0e0f',
    'passphrase:old:argon2id:v19:m19456:t2:p1:000102030405060708090A0B0C0D0E0F',
    'passphrase:old:argon2id:v19:m19456:t2:p1:0001020304050607',
    'passphrase:old:argon2id:v19:m19456:t2:p1:000102030405060708090a0b0c0d0e0f:',
    'passphrase::argon2id:v19:m19456:t2:p1:000102030405060708090a0b0c0d0e0f',
    'passphrase:a:b:argon2id:v19:m19456:t2:p1:000102030405060708090a0b0c0d0e0f',
  ])('is nothing else: %s', async (keyId) => {
    expect(decodeKeyId(keyId)).toBeUndefined();
    const wrapped = await keyring().wrap(dataKey, CONTEXT);
    await expect(keyring().unwrap({ ...wrapped, keyId }, CONTEXT)).rejects.toMatchObject(REFUSED);
    await expect(keyring().macKey(MAC, keyId)).rejects.toMatchObject(REFUSED);
  });
});

describe('passphraseKeyring', () => {
  it('opens for ever what it wrapped once, and signs with the same key (both computed with node:crypto alone)', async () => {
    const wrapped: WrappedKey = {
      keyId: `passphrase:old:argon2id:v19:m19456:t2:p1:${SALT}`,
      scheme: 'passphrase-aes-256-gcm-v1',
      wrapped:
        'BwcHBwcHBwcHBwcHO9jI21EeQTuPLan9UB7CjoAiidTWvwaxmakKGHmBPkBQKB1c3LYElj87pGyMA1uya1lh4C+s2rn1TyjLm3JQ0tX0e7XdlH5gzvTMz94eS+E=',
    };
    const keys = onlyOpens(old);
    expect(Buffer.from(await keys.unwrap(wrapped, CONTEXT)).toString('hex')).toBe('2a'.repeat(32));
    const { key } = await keys.macKey(MAC, wrapped.keyId);
    expect(Buffer.from(key).toString('hex')).toBe(
      'fe9021ef72056e86ffb488cf2364bcf7e3b4bc8382f8d49b6b2796fa5243df51',
    );
  });

  it('opens with the passphrase alone, whatever is current now', async () => {
    const wrapped = await keyring().wrap(dataKey, CONTEXT);
    const mac = await keyring().macKey(MAC);
    const others = [
      onlyOpens(old),
      keyring({ salt: 'ff'.repeat(16) }),
      keyring({ memoryKiB: 32_768, iterations: 3, parallelism: 2 }),
      passphraseKeyring({ passphrases: [named('new', NEW), old], current: current({ name: 'new' }) }),
    ];
    for (const other of others) {
      expect([...(await other.unwrap(wrapped, CONTEXT))]).toEqual([...dataKey]);
      expect(await other.macKey(MAC, mac.keyId)).toEqual(mac);
    }
  });

  it('only opens without `current`', async () => {
    const keys = onlyOpens(old);
    const invalid = { code: 'CONFIGURATION_INVALID' };
    await expect(keys.currentKeyId()).rejects.toMatchObject(invalid);
    await expect(keys.wrap(dataKey, CONTEXT)).rejects.toMatchObject(invalid);
    await expect(keys.macKey(MAC)).rejects.toMatchObject(invalid);
    await expect(keys.rotate()).rejects.toMatchObject(invalid);
  });

  it('gives another key id, and unrelated secrets, for every salt, cost and name', async () => {
    const all = [
      keyring(),
      keyring({ salt: '10'.repeat(16) }),
      keyring({ memoryKiB: 20_000 }),
      keyring({ iterations: 3 }),
      keyring({ parallelism: 2 }),
      passphraseKeyring({ passphrases: [named('also', OLD)], current: current({ name: 'also' }) }),
    ];
    const macs = await Promise.all(all.map((keys) => keys.macKey(MAC)));
    expect(new Set(macs.map(({ keyId }) => keyId)).size).toBe(all.length);
    expect(new Set(macs.map(({ key }) => Buffer.from(key).toString('hex'))).size).toBe(all.length);
  });

  it('refuses altered parameters, salts and names of a wrapped key', async () => {
    const wrapped = await keyring().wrap(dataKey, CONTEXT);
    const keys = onlyOpens(old, named('also', OLD));
    const alter: [string, string][] = [
      ['m19456', 'm19457'],
      ['t2', 't3'],
      ['p1', 'p2'],
      [SALT, `${SALT}00`],
      ['0f', '0e'],
      [':old:', ':also:'],
    ];
    for (const [from, to] of alter) {
      const keyId = wrapped.keyId.replace(from, to);
      expect(keyId).not.toBe(wrapped.keyId);
      await expect(keys.unwrap({ ...wrapped, keyId }, CONTEXT), keyId).rejects.toMatchObject(REFUSED);
    }
    expect([...(await keys.unwrap(wrapped, CONTEXT))]).toEqual([...dataKey]);
  });

  it('does not open with another passphrase under the name, and names one that is missing', async () => {
    const wrapped = await keyring().wrap(dataKey, CONTEXT);
    await expect(onlyOpens(named('old', NEW)).unwrap(wrapped, CONTEXT)).rejects.toMatchObject({
      ...REFUSED,
      message: expect.stringContaining('of this passphrase is not the one'),
    });
    await expect(onlyOpens(named('new', OLD)).unwrap(wrapped, CONTEXT)).rejects.toMatchObject({
      ...REFUSED,
      message: expect.stringContaining('There is no passphrase "old"'),
    });
  });

  it('asks again for a passphrase that was wrong, and not for one that was right', async () => {
    const wrapped = await keyring().wrap(dataKey, CONTEXT);
    let passphrase = NEW;
    let asked = 0;
    const keys = onlyOpens({
      name: 'old',
      credentials: async () => {
        asked += 1;
        return { passphrase };
      },
    });
    await expect(keys.unwrap(wrapped, CONTEXT)).rejects.toMatchObject(REFUSED);
    passphrase = OLD;
    await keys.unwrap(wrapped, CONTEXT);
    expect(asked).toBe(2);
    passphrase = NEW;
    await expect(keys.unwrap(wrapped, { ...CONTEXT, snapshotId: 'x' })).rejects.toMatchObject(REFUSED);
    await keys.unwrap(wrapped, CONTEXT);
    expect(asked).toBe(2);
  });

  it('passes on that the host has no passphrase, without what the host threw, and asks again', async () => {
    let answer: () => { passphrase: string } = () => {
      throw new Error(OLD);
    };
    const keys = passphraseKeyring({
      passphrases: [{ name: 'old', credentials: () => answer() }],
      current: current(),
    });
    const error = await keys.wrap(dataKey, CONTEXT).catch((e: unknown) => e);
    expect(error).toMatchObject({ code: 'CREDENTIALS_UNAVAILABLE' });
    expect(inspect(error, { depth: 9 })).not.toContain(OLD);
    answer = () => ({ passphrase: OLD });
    await expect(keys.wrap(dataKey, CONTEXT)).resolves.toMatchObject({ keyId: await keys.currentKeyId() });
  });

  it('does not wait for ever for a host that does not answer, and asks again', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    let answer: Promise<{ passphrase: string }> = new Promise(() => undefined);
    const keys = passphraseKeyring({
      passphrases: [{ name: 'old', credentials: () => answer }],
      current: current(),
    });
    const late = expect(keys.wrap(dataKey, CONTEXT)).rejects.toMatchObject({
      code: 'KEY_UNAVAILABLE',
      retryable: true,
    });
    await vi.advanceTimersByTimeAsync(10_000);
    await late;
    answer = Promise.resolve({ passphrase: OLD });
    await expect(keys.wrap(dataKey, CONTEXT)).resolves.toMatchObject({ keyId: await keys.currentKeyId() });
    expect(vi.getTimerCount()).toBe(0);
  });

  it.each([
    ['m4294967296:t1:p1', /`maxMemoryKiB` allows 262144/],
    ['m9999999999:t9999999999:p9999999999', /`maxMemoryKiB`/],
    ['m262145:t1:p1', /`maxMemoryKiB`/],
    ['m65536:t4294967295:p1', /passes/],
    ['m262144:t17:p1', /passes/],
    ['m65536:t3:p16777215', /lanes/],
    ['m65536:t3:p17', /lanes/],
    ['m8:t1:p1', /too cheap/],
    ['m19455:t3:p1', /too cheap/],
    ['m19456:t1:p1', /too cheap/],
  ])('derives nothing for the stored cost %s', async (cost, problem) => {
    const wrapped = await keyring().wrap(dataKey, CONTEXT);
    const keys = keyring();
    ran.count = 0;
    const keyId = `passphrase:old:argon2id:v19:${cost}:${SALT}`;
    for (const call of [keys.unwrap({ ...wrapped, keyId }, CONTEXT), keys.macKey(MAC, keyId)]) {
      await expect(call).rejects.toMatchObject({ ...REFUSED, message: expect.stringMatching(problem) });
    }
    expect(ran.count).toBe(0);
  });

  it('takes as much memory as the host allows', async () => {
    const options = { passphrases: [old], current: current({ memoryKiB: 300_000, iterations: 1 }) };
    expect(() => passphraseKeyring(options)).toThrow(/maxMemoryKiB/);
    const wrapped = await passphraseKeyring({ ...options, maxMemoryKiB: 300_000 }).wrap(dataKey, CONTEXT);
    await expect(onlyOpens(old).unwrap(wrapped, CONTEXT)).rejects.toMatchObject(REFUSED);
    const keys = passphraseKeyring({ passphrases: [old], maxMemoryKiB: 300_000 });
    expect([...(await keys.unwrap(wrapped, CONTEXT))]).toEqual([...dataKey]);
  });

  it.each<[string, object]>([
    ['no passphrases', { passphrases: [] }],
    ['none at all', {}],
    ['a name twice', { passphrases: [old, old] }],
    ['a name that is none', { passphrases: [named('a:b', OLD)] }],
    ['a name that is too long', { passphrases: [named('a'.repeat(65), OLD)] }],
    ['a passphrase in the place of the function', { passphrases: [{ name: 'old', credentials: OLD }] }],
    ['an unknown current name', { passphrases: [old], current: current({ name: 'new' }) }],
    ['a short salt', { passphrases: [old], current: current({ salt: '00'.repeat(15) }) }],
    ['a long salt', { passphrases: [old], current: current({ salt: '00'.repeat(33) }) }],
    ['a salt in capital letters', { passphrases: [old], current: current({ salt: 'AB'.repeat(16) }) }],
    ['half a byte', { passphrases: [old], current: current({ salt: `${'00'.repeat(16)}0` }) }],
    ['no salt', { passphrases: [old], current: { name: 'old' } }],
    ['a cheap cost', { passphrases: [old], current: current({ iterations: 1 }) }],
    ['a dear cost', { passphrases: [old], current: current({ memoryKiB: 2 ** 32 }) }],
    ['half an iteration', { passphrases: [old], current: current({ iterations: 2.5 }) }],
    ['no number', { passphrases: [old], current: { ...current(), memoryKiB: '65536' } }],
    ['no lanes', { passphrases: [old], current: current({ parallelism: 0 }) }],
    ['a limit that is too low', { passphrases: [old], maxMemoryKiB: 1024 }],
    ['a limit that is none', { passphrases: [old], maxMemoryKiB: Number.POSITIVE_INFINITY }],
  ])('refuses %s at once', (_, options) => {
    let error: unknown;
    try {
      passphraseKeyring(options as Parameters<typeof passphraseKeyring>[0]);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toMatchObject({ code: 'CONFIGURATION_INVALID' });
    expect(inspect(error)).not.toContain(OLD);
  });

  it('derives once for 50 that unwrap at once', async () => {
    const wrapping = keyring();
    const wrapped = await Promise.all(Array.from({ length: 50 }, () => wrapping.wrap(dataKey, CONTEXT)));
    expect(ran.count).toBe(1);
    const keys = onlyOpens(old);
    ran.count = 0;
    const opened = await Promise.all(wrapped.map((one) => keys.unwrap(one, CONTEXT)));
    for (const one of opened) expect([...one]).toEqual([...dataKey]);
    expect(ran.count).toBe(1);
  });

  it('derives different keys one at a time', async () => {
    const wrapped = await Promise.all(
      Array.from({ length: 8 }, (_, n) => keyring({ salt: `0${n}`.repeat(16) }).wrap(dataKey, CONTEXT)),
    );
    Object.assign(ran, { count: 0, most: 0 });
    const keys = onlyOpens(old);
    await Promise.all([...wrapped, ...wrapped].map((one) => keys.unwrap(one, CONTEXT)));
    expect(ran).toMatchObject({ count: 8, most: 1 });
  });

  it('leaves the event loop free meanwhile', async () => {
    let turns = 0;
    const timer = setInterval(() => {
      turns += 1;
    }, 1);
    await keyring({ memoryKiB: 262_144, iterations: 3 }).wrap(dataKey, CONTEXT);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(20);
  });

  it('derives five unknown keys a minute for MACs, whatever devices name, and the known ones always', async () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    const keys = keyring();
    const strange = (n: number) =>
      `passphrase:old:argon2id:v19:m19456:t2:p1:${n.toString(16).padStart(2, '0').repeat(16)}`;
    for (let n = 1; n <= 5; n += 1) await keys.macKey(MAC, strange(n));
    await expect(keys.macKey(MAC, strange(6))).rejects.toMatchObject({
      code: 'KEY_UNAVAILABLE',
      retryable: true,
    });
    await keys.macKey(MAC, strange(5));
    await keys.macKey(MAC);
    expect(ran.count).toBe(6);
    vi.advanceTimersByTime(60_001);
    await keys.macKey(MAC, strange(6));
    expect(ran.count).toBe(7);
  });

  it('shows no passphrase and no derived key', async () => {
    const keys = keyring();
    const wrapped = await keys.wrap(dataKey, CONTEXT);
    await keys.unwrap(wrapped, CONTEXT);
    const derived = await argon2id(Buffer.from(OLD), { ...CHEAP, salt: Buffer.from(SALT, 'hex') });
    const shown = [keys, keys.description, wrapped, await keys.macKey(MAC).then(({ keyId }) => keyId)]
      .flatMap((thing) => [inspect(thing, { depth: 20, showHidden: true }), JSON.stringify(thing)])
      .join('\n');
    for (const form of ['hex', 'base64'] as const) {
      expect(shown).not.toContain(Buffer.from(derived).toString(form));
      expect(shown).not.toContain(Buffer.from(OLD).toString(form));
    }
    expect(shown).not.toContain(OLD);
    expect(keys.description).toBe('passphrase keyring of old');
  });
});

describe('derivedKeys', () => {
  const made = () => Promise.resolve(createSecretKey(randomBytes(32)));

  it('keeps the ones used last, and the pinned one always', async () => {
    const kept = derivedKeys(3, 'pinned');
    const first = kept.get('pinned', made);
    for (const id of ['a', 'b', 'c']) kept.get(id, made);
    kept.get('a', made);
    kept.get('d', made);
    expect(['pinned', 'a', 'b', 'c', 'd'].map((id) => kept.has(id))).toEqual([true, true, false, true, true]);
    for (let n = 0; n < 100; n += 1) kept.get(`x${n}`, made);
    expect(kept.get('pinned', made)).toBe(first);
    expect(Array.from({ length: 100 }, (_, n) => kept.has(`x${n}`)).filter(Boolean)).toHaveLength(3);
  });

  it('does not keep what failed', async () => {
    const kept = derivedKeys(3, undefined);
    const failed = kept.get('a', () => Promise.reject(new Error('no')));
    await expect(failed.key).rejects.toThrow('no');
    await sleep(0);
    expect(kept.has('a')).toBe(false);
  });

  it('drops a doubted key once, and never a proven or a newer one', async () => {
    const kept = derivedKeys(3, undefined);
    const first = kept.get('a', made);
    kept.doubt('a', first);
    const second = kept.get('a', made);
    expect(second).not.toBe(first);
    kept.doubt('a', first);
    expect(kept.get('a', made)).toBe(second);
    second.proven = true;
    kept.doubt('a', second);
    expect(kept.get('a', made)).toBe(second);
  });
});
