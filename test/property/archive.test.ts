import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { readHeader } from '../../src/archive/manifest.ts';
import { checkObject, objectPlans } from '../../src/archive/reader.ts';
import { CHECKSUM_ALGORITHMS, COMPRESSION_ALGORITHMS } from '../../src/types/encryption.ts';
import {
  type BuiltArchive,
  buildArchive,
  codeOf,
  DATA_KEY,
  IDENTITY,
  readBack,
} from '../vectors/build-archive.ts';

const OTHER = { ...IDENTITY, attemptId: '0190b2c0-0000-7000-8000-0000000000ff' };

const bytes = fc.oneof(
  fc.uint8Array({ maxLength: 600 }),
  fc.string({ maxLength: 600 }).map((text) => new Uint8Array(Buffer.from(text.repeat(3)).subarray(0, 600))),
);
const segments = fc
  .array(
    fc.record({
      part: fc.constantFrom(0, 1, 0xffff_ffff),
      run: fc.constantFrom(0, 1, 2, 0xffff_ffff),
      raw: bytes,
      rows: fc.nat(1000),
      wants: fc.boolean(),
    }),
    { maxLength: 12 },
  )
  .map((list) => {
    const parts = new Map<number, number>();
    return list.map(({ wants, ...segment }) => {
      const continues = wants && parts.get(segment.run) === segment.part;
      parts.set(segment.run, segment.part);
      return { ...segment, continues };
    });
  });
const settings = fc.record({
  compression: fc.constantFrom(...COMPRESSION_ALGORITHMS),
  checksum: fc.constantFrom(...CHECKSUM_ALGORITHMS),
  dataKey: fc.constantFrom(DATA_KEY, undefined),
  objectSize: fc.constantFrom(1, 500, 100_000),
  reopen: fc.constantFrom('CHECK' as const, 'TRUST' as const),
});

test('whatever goes in comes out', async () => {
  await fc.assert(
    fc.asyncProperty(segments, settings, fc.jsonValue(), async (list, how, contents) => {
      const json = JSON.parse(JSON.stringify(contents));
      const back = await readBack(
        await buildArchive({ ...how, segments: list, segmentSize: 600, contents: json }),
      );
      const expected = list
        .toSorted((a, b) => a.run - b.run)
        .map((segment) => ({ ...segment, raw: Buffer.from(segment.raw) }));
      expect(back.segments).toEqual(expected);
      expect(back.contents).toEqual(json);
    }),
    { numRuns: 300 },
  );
});

/** What can happen to stored bytes; undefined when this one changes nothing here. */
const damages: Record<string, (bytes: Buffer, at: number, to: number) => Buffer | undefined> = {
  flip: (all, at, to) =>
    Buffer.from(all.map((byte, index) => (index === at ? byte ^ (1 << (to % 8)) : byte))),
  remove: (all, at) => Buffer.concat([all.subarray(0, at), all.subarray(at + 1)]),
  insert: (all, at, to) => Buffer.concat([all.subarray(0, at), Buffer.from([to & 255]), all.subarray(at)]),
  cut: (all, at) => all.subarray(0, at),
  swap: (all, at, to) => {
    const changed = Buffer.from(all);
    const other = to % all.length;
    changed.writeUInt8(all.readUInt8(other), at);
    changed.writeUInt8(all.readUInt8(at), other);
    return changed.equals(all) ? undefined : changed;
  },
};

function checkWithoutKeys(archive: BuiltArchive): void {
  const header = readHeader(archive.manifest, archive.identity);
  for (const plan of objectPlans(header)) checkObject(header, plan, archive.objects.get(plan.name));
}

async function expectFound(archive: BuiltArchive): Promise<void> {
  const codes = ['ARCHIVE_CORRUPT', 'ARCHIVE_VERSION_UNSUPPORTED', 'ARCHIVE_INCOMPLETE'];
  expect(codes).toContain(await codeOf(() => checkWithoutKeys(archive)));
  expect(codes).toContain(await codeOf(() => readBack(archive)));
}

describe.each([
  ['encrypted', DATA_KEY],
  ['plain', undefined],
])('%s', (_, dataKey) => {
  const list = [0, 1, 2, 3].map((index) => {
    const raw = Buffer.from(`row ${index}\tof some table\n`.repeat(20 + index));
    return { part: 1, run: index % 2, raw, rows: 20 + index, continues: false };
  });
  const built = buildArchive({ segments: list, dataKey, objectSize: 60 });
  const elsewhere = buildArchive({ segments: list, dataKey, objectSize: 60, identity: OTHER });

  test.each(Object.entries(damages))(
    '%s of any byte is found, with and without keys',
    async (_name, damage) => {
      const archive = await built;
      const names = ['manifest', ...archive.objects.keys()];
      await fc.assert(
        fc.asyncProperty(fc.constantFrom(...names), fc.nat(), fc.nat(), async (name, at, to) => {
          const before =
            name === 'manifest' ? archive.manifest : (archive.objects.get(name) ?? Buffer.alloc(0));
          const after = damage(before, at % before.length, to);
          if (after === undefined) return;
          const objects = name === 'manifest' ? archive.objects : new Map(archive.objects).set(name, after);
          await expectFound({ ...archive, objects, ...(name === 'manifest' && { manifest: after }) });
        }),
        { numRuns: 200 },
      );
    },
  );

  test('objects that are swapped, missing or of another attempt are found', async () => {
    const archive = await built;
    const foreign = await elsewhere;
    const names = [...archive.objects.keys()];
    expect(names.length).toBeGreaterThan(1);
    for (const name of names) {
      const without = new Map(archive.objects);
      without.delete(name);
      await expectFound({ ...archive, objects: without });
      for (const other of names) {
        if (other === name) continue;
        const swapped = new Map(archive.objects);
        swapped.set(name, archive.objects.get(other) ?? Buffer.alloc(0));
        swapped.set(other, archive.objects.get(name) ?? Buffer.alloc(0));
        await expectFound({ ...archive, objects: swapped });
      }
      if (dataKey === undefined) continue;
      const mixed = new Map(archive.objects).set(name, foreign.objects.get(name) ?? Buffer.alloc(0));
      await expectFound({ ...archive, objects: mixed });
    }
    await expectFound({ ...archive, manifest: foreign.manifest });
    await expectFound({ ...foreign, identity: archive.identity });
  });
});

test('any bytes at all are refused as a manifest, with an error of the archive', async () => {
  const start = Buffer.from('CCBKPMAN\0\x01', 'latin1');
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), fc.boolean(), async (random, begins) => {
      const code = await codeOf(() => readHeader(begins ? Buffer.concat([start, random]) : random));
      expect(code).toBe('ARCHIVE_CORRUPT');
    }),
    { numRuns: 300 },
  );
});
