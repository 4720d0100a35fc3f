import { randomBytes } from 'node:crypto';
import { inspect } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { KeyContext, KeyProvider, MacContext, WrappedKey } from '../../src/keys/keys.ts';

export interface KeyContractCapabilities {
  /** Whether `rotate` makes a key; otherwise it must reject and change nothing. */
  readonly rotates?: boolean;
  /** Whether `retire` removes a key; otherwise it must say how the host does. */
  readonly retires?: boolean;
  /** Whether another key can have the same id; a key that is named by its content cannot. */
  readonly hasImpostor?: boolean;
}

export interface KeysUnderTest {
  readonly keys: KeyProvider;
  /** The same provider as another process would open it, with the keys of now. */
  reopen?(): Promise<KeyProvider>;
  /** A provider with another key under the same id as the current one of `keys`; needed with `hasImpostor`. */
  impostor?(): Promise<KeyProvider>;
  /** Texts that must never be seen outside: the keys, in every encoding that they are given or kept in. */
  readonly secrets?: readonly string[];
  close?(): Promise<void>;
}

const ID = /^[A-Za-z0-9._:/-]{1,255}$/;
const ORGANIZATION = '0190a000-0000-7000-8000-000000000001';
const CONFIGURATION = '0190a000-0000-7000-8000-000000000002';
const SNAPSHOT = '0190a000-0000-7000-8000-000000000003';
const OTHER = '0190a000-0000-7000-8000-00000000000f';

const CONTEXT: KeyContext = {
  organizationId: ORGANIZATION,
  configurationId: CONFIGURATION,
  snapshotId: SNAPSHOT,
};
const MAC: MacContext = { organizationId: ORGANIZATION, configurationId: CONFIGURATION, purpose: 'sidecar' };

const UNAVAILABLE = { code: 'KEY_UNAVAILABLE', retryable: false };

/**
 * Holds a key provider to the contract on `KeyProvider`. Every test gets a fresh provider from `factory`.
 * To be called at the top of a test file; it registers vitest tests.
 */
export function keyContract(
  name: string,
  factory: () => Promise<KeysUnderTest>,
  capabilities: KeyContractCapabilities = {},
): void {
  const { rotates = true, retires = false, hasImpostor = true } = capabilities;

  describe(`key contract: ${name}`, { timeout: 60_000 }, () => {
    let subject: KeysUnderTest;
    let keys: KeyProvider;
    let dataKey: Uint8Array;

    beforeEach(async () => {
      subject = await factory();
      keys = subject.keys;
      dataKey = new Uint8Array(randomBytes(32));
    });

    afterEach(async () => {
      await subject.close?.();
    });

    describe('wrap and unwrap', () => {
      it('gives back the data key', async () => {
        const wrapped = await keys.wrap(dataKey, CONTEXT);
        expect(wrapped.keyId).toBe(await keys.currentKeyId());
        expect(wrapped.keyId).toMatch(ID);
        expect(wrapped.scheme).toMatch(/\S/);
        expect(Buffer.from(wrapped.wrapped, 'base64').toString('base64')).toBe(wrapped.wrapped);
        const opened = await keys.unwrap(wrapped, { ...CONTEXT });
        expect(opened).toBeInstanceOf(Uint8Array);
        expect([...opened]).toEqual([...dataKey]);
      });

      it('survives JSON, and another process opens it', async () => {
        const stored: WrappedKey = JSON.parse(JSON.stringify(await keys.wrap(dataKey, CONTEXT)));
        const other = (await subject.reopen?.()) ?? keys;
        expect([...(await other.unwrap(stored, CONTEXT))]).toEqual([...dataKey]);
      });

      it('never shows the data key, and never wraps twice alike', async () => {
        const all = await Promise.all(Array.from({ length: 50 }, () => keys.wrap(dataKey, CONTEXT)));
        expect(new Set(all.map(({ wrapped }) => wrapped)).size).toBe(50);
        for (const { wrapped } of all) {
          expect(Buffer.from(wrapped, 'base64').includes(Buffer.from(dataKey))).toBe(false);
        }
      });

      it.each([0, 16, 31, 33, 64])('refuses a data key of %i bytes', async (size) => {
        await expect(keys.wrap(new Uint8Array(size), CONTEXT)).rejects.toMatchObject({
          code: 'VALIDATION_FAILED',
        });
      });

      it('does not change or keep the data key', async () => {
        const before = [...dataKey];
        const wrapped = await keys.wrap(dataKey, CONTEXT);
        expect([...dataKey]).toEqual(before);
        dataKey.fill(0);
        expect([...(await keys.unwrap(wrapped, CONTEXT))]).toEqual(before);
      });

      it.each(['organizationId', 'configurationId', 'snapshotId'] as const)('binds %s', async (field) => {
        const wrapped = await keys.wrap(dataKey, CONTEXT);
        await expect(keys.unwrap(wrapped, { ...CONTEXT, [field]: OTHER })).rejects.toMatchObject(UNAVAILABLE);
      });

      it('binds each field in its place', async () => {
        const wrapped = await keys.wrap(dataKey, CONTEXT);
        const swapped = { ...CONTEXT, organizationId: CONFIGURATION, configurationId: ORGANIZATION };
        await expect(keys.unwrap(wrapped, swapped)).rejects.toMatchObject(UNAVAILABLE);
        const [a, b] = [
          { ...CONTEXT, organizationId: 'ab', configurationId: 'c' },
          { ...CONTEXT, organizationId: 'a', configurationId: 'bc' },
        ];
        await expect(keys.unwrap(await keys.wrap(dataKey, a), b)).rejects.toMatchObject(UNAVAILABLE);
      });

      it('refuses wrapped bytes with any byte altered, cut or added', async () => {
        const wrapped = await keys.wrap(dataKey, CONTEXT);
        const bytes = Buffer.from(wrapped.wrapped, 'base64');
        const broken = [
          ...Array.from(bytes, (byte, at) =>
            Buffer.concat([bytes.subarray(0, at), Buffer.of(byte ^ 1), bytes.subarray(at + 1)]),
          ),
          bytes.subarray(0, -1),
          bytes.subarray(1),
          bytes.subarray(0, 32),
          Buffer.concat([bytes, Buffer.of(0)]),
          Buffer.alloc(0),
          Buffer.alloc(bytes.byteLength),
        ].map((altered) => altered.toString('base64'));
        broken.push(
          `${wrapped.wrapped} `,
          `${wrapped.wrapped}=`,
          'not base64 at all',
          wrapped.wrapped.slice(1),
        );
        for (const altered of broken) {
          await expect(keys.unwrap({ ...wrapped, wrapped: altered }, CONTEXT), altered).rejects.toMatchObject(
            UNAVAILABLE,
          );
        }
      });

      it('refuses another scheme', async () => {
        const wrapped = await keys.wrap(dataKey, CONTEXT);
        for (const scheme of ['', `${wrapped.scheme}2`, 'none']) {
          await expect(keys.unwrap({ ...wrapped, scheme }, CONTEXT)).rejects.toMatchObject(UNAVAILABLE);
        }
      });

      it('names a missing key', async () => {
        const wrapped = await keys.wrap(dataKey, CONTEXT);
        const error = await keys
          .unwrap({ ...wrapped, keyId: 'some-lost-key' }, CONTEXT)
          .catch((e: unknown) => e);
        expect(error).toMatchObject({ ...UNAVAILABLE, message: expect.stringContaining('some-lost-key') });
      });

      it('does not repeat an id that is none', async () => {
        const wrapped = await keys.wrap(dataKey, CONTEXT);
        for (const keyId of ['', 'a\nb', 'x'.repeat(5_000), 'é']) {
          const error = await keys.unwrap({ ...wrapped, keyId }, CONTEXT).catch((e: unknown) => e);
          expect(error).toMatchObject({ ...UNAVAILABLE, message: expect.stringMatching(/^.{1,300}$/) });
        }
      });

      if (hasImpostor) {
        it('refuses what another key under the same id wrapped', async () => {
          const impostor = await subject.impostor?.();
          if (impostor === undefined) throw new Error('The factory makes no impostor.');
          expect(await impostor.currentKeyId()).toBe(await keys.currentKeyId());
          await expect(keys.unwrap(await impostor.wrap(dataKey, CONTEXT), CONTEXT)).rejects.toMatchObject(
            UNAVAILABLE,
          );
          await expect(impostor.unwrap(await keys.wrap(dataKey, CONTEXT), CONTEXT)).rejects.toMatchObject(
            UNAVAILABLE,
          );
          expect([...(await impostor.macKey(MAC)).key]).not.toEqual([...(await keys.macKey(MAC)).key]);
        });
      }
    });

    describe('macKey', () => {
      const secretOf = async (provider: KeyProvider, context: MacContext, keyId?: string) =>
        Buffer.from((await provider.macKey(context, keyId)).key).toString('hex');

      it('gives 256 bits under the current key, always the same', async () => {
        const first = await keys.macKey(MAC);
        expect(first.keyId).toBe(await keys.currentKeyId());
        expect(first.key.byteLength).toBe(32);
        expect(await secretOf(keys, { ...MAC })).toBe(Buffer.from(first.key).toString('hex'));
        expect(await secretOf(keys, MAC, first.keyId)).toBe(Buffer.from(first.key).toString('hex'));
        const other = (await subject.reopen?.()) ?? keys;
        expect(await secretOf(other, MAC)).toBe(Buffer.from(first.key).toString('hex'));
      });

      it('gives another secret for every other context', async () => {
        const contexts: MacContext[] = [
          MAC,
          { ...MAC, organizationId: OTHER },
          { ...MAC, configurationId: OTHER },
          { ...MAC, organizationId: CONFIGURATION, configurationId: ORGANIZATION },
          { ...MAC, purpose: 'sync-base' },
          { ...MAC, purpose: 'sidecar ' },
          { ...MAC, purpose: 'x'.repeat(3_000) },
          { ...MAC, organizationId: 'ab', configurationId: 'c' },
          { ...MAC, organizationId: 'a', configurationId: 'bc' },
          { ...MAC, organizationId: 'a', configurationId: 'b', purpose: 'c' },
        ];
        const secrets = await Promise.all(contexts.map((context) => secretOf(keys, context)));
        expect(new Set(secrets).size).toBe(contexts.length);
      });

      it('gives every caller bytes of its own', async () => {
        const before = await secretOf(keys, MAC);
        (await keys.macKey(MAC)).key.fill(0);
        expect(await secretOf(keys, MAC)).toBe(before);
      });

      it('names a missing key', async () => {
        await expect(keys.macKey(MAC, 'some-lost-key')).rejects.toMatchObject({
          ...UNAVAILABLE,
          message: expect.stringContaining('some-lost-key'),
        });
      });
    });

    describe('rotate', () => {
      if (!rotates) {
        it('rejects and changes nothing', async () => {
          const before = await keys.currentKeyId();
          await expect(keys.rotate()).rejects.toMatchObject({ code: 'CONFIGURATION_INVALID' });
          expect(await keys.currentKeyId()).toBe(before);
        });
        return;
      }

      it('makes a new current key, and the older ones go on', async () => {
        const wrapped: WrappedKey[] = [await keys.wrap(dataKey, CONTEXT)];
        const macs = [await keys.macKey(MAC)];
        for (let n = 0; n < 3; n += 1) {
          const id = await keys.rotate();
          expect(id).toMatch(ID);
          expect(await keys.currentKeyId()).toBe(id);
          wrapped.push(await keys.wrap(dataKey, CONTEXT));
          macs.push(await keys.macKey(MAC));
          expect(wrapped.at(-1)?.keyId).toBe(id);
          expect(macs.at(-1)?.keyId).toBe(id);
        }
        expect(new Set(wrapped.map(({ keyId }) => keyId)).size).toBe(4);
        expect(new Set(macs.map(({ key }) => Buffer.from(key).toString('hex'))).size).toBe(4);
        for (const one of wrapped) expect([...(await keys.unwrap(one, CONTEXT))]).toEqual([...dataKey]);
        for (const mac of macs) expect([...(await keys.macKey(MAC, mac.keyId)).key]).toEqual([...mac.key]);
      });

      it('binds the wrapped bytes to their key id', async () => {
        const old = await keys.wrap(dataKey, CONTEXT);
        const keyId = await keys.rotate();
        await expect(keys.unwrap({ ...old, keyId }, CONTEXT)).rejects.toMatchObject(UNAVAILABLE);
      });

      it('loses no key when many rotate and wrap at once', async () => {
        const wrapped: WrappedKey[] = [];
        const ids = await Promise.all(
          Array.from({ length: 5 }, async () => {
            const id = await keys.rotate();
            wrapped.push(await keys.wrap(dataKey, CONTEXT));
            return id;
          }),
        );
        expect(new Set(ids).size).toBe(5);
        expect(ids).toContain(await keys.currentKeyId());
        for (const id of ids) expect((await keys.macKey(MAC, id)).keyId).toBe(id);
        for (const one of wrapped) expect([...(await keys.unwrap(one, CONTEXT))]).toEqual([...dataKey]);
      });
    });

    describe('retire', () => {
      if (!retires) {
        it('says how the host does it, and changes nothing', async () => {
          const wrapped = await keys.wrap(dataKey, CONTEXT);
          await expect(keys.retire?.(wrapped.keyId)).rejects.toMatchObject({ code: 'NOT_SUPPORTED' });
          expect([...(await keys.unwrap(wrapped, CONTEXT))]).toEqual([...dataKey]);
        });
        return;
      }

      it('removes a key for every process, and no other', async () => {
        const wrapped = [await keys.wrap(dataKey, CONTEXT)];
        for (let n = 0; n < 2; n += 1) {
          await keys.rotate();
          wrapped.push(await keys.wrap(dataKey, CONTEXT));
        }
        const other = (await subject.reopen?.()) ?? keys;
        const [first, second, last] = wrapped;
        if (first === undefined || second === undefined || last === undefined)
          throw new Error('Not wrapped.');
        await expect(other.unwrap(second, CONTEXT)).resolves.toBeDefined();
        await keys.retire?.(second.keyId);
        for (const provider of [keys, other]) {
          await expect(provider.unwrap(second, CONTEXT)).rejects.toMatchObject(UNAVAILABLE);
          await expect(provider.macKey(MAC, second.keyId)).rejects.toMatchObject(UNAVAILABLE);
          for (const one of [first, last])
            expect([...(await provider.unwrap(one, CONTEXT))]).toEqual([...dataKey]);
        }
      });

      it('refuses the current key, and one that is not there', async () => {
        const current = await keys.currentKeyId();
        await expect(keys.retire?.(current)).rejects.toMatchObject({
          code: 'INVALID_STATE',
          retryable: false,
        });
        await expect(keys.retire?.('some-lost-key')).rejects.toMatchObject(UNAVAILABLE);
        expect(await keys.currentKeyId()).toBe(current);
      });

      it('loses no key that others make meanwhile', async () => {
        const [old, ...ids] = [
          await keys.currentKeyId(),
          ...(await Promise.all([keys.rotate(), keys.rotate()])),
        ];
        const [made] = await Promise.all([keys.rotate(), keys.retire?.(old)]);
        for (const id of [...ids, made]) expect((await keys.macKey(MAC, id)).keyId).toBe(id);
      });
    });

    describe('keyInfo', () => {
      it('tells a time that has been, or that it does not know', async () => {
        const told = await keys.keyInfo?.(await keys.currentKeyId());
        if (told === undefined) return;
        expect(new Date(told.createdAt).toISOString()).toBe(told.createdAt);
        expect(Date.parse(told.createdAt)).toBeLessThanOrEqual(Date.now());
      });
    });

    it('shows no key in itself, its description, its answers or its errors', async () => {
      const wrapped = await keys.wrap(dataKey, CONTEXT);
      const failures = await Promise.all(
        [
          keys.unwrap({ ...wrapped, keyId: 'lost' }, CONTEXT),
          keys.unwrap({ ...wrapped, wrapped: 'AAAA' }, CONTEXT),
          keys.unwrap(wrapped, { ...CONTEXT, snapshotId: OTHER }),
          keys.macKey(MAC, 'lost'),
          keys.wrap(dataKey.subarray(1), CONTEXT),
        ].map((call) =>
          call.then(
            () => 'did not fail',
            (error: unknown) => error,
          ),
        ),
      );
      expect(failures).not.toContain('did not fail');
      const shown = [keys, keys.description, wrapped, ...failures]
        .flatMap((thing) => [
          inspect(thing, { depth: 20, showHidden: true, getters: true }),
          JSON.stringify(thing),
          String(thing),
        ])
        .join('\n');
      const secrets = [
        ...(subject.secrets ?? []),
        ...['hex', 'base64'].map((e) => Buffer.from(dataKey).toString(e === 'hex' ? 'hex' : 'base64')),
      ];
      for (const secret of secrets) expect(shown.includes(secret), 'a key is shown').toBe(false);
      expect(keys.description).toMatch(/\S/);
    });
  });
}
