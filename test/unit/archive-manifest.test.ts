import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { deriveSubkeys } from '../../src/archive/encrypt.ts';
import {
  attemptPrefix,
  FORMAT_VERSION,
  type ManifestHeader,
  type SegmentContent,
} from '../../src/archive/format.ts';
import { encodeManifest, openManifest, readHeader } from '../../src/archive/manifest.ts';
import { checkObject, locate, objectPlans, openSegment } from '../../src/archive/reader.ts';
import { COMPRESSION_ALGORITHMS } from '../../src/types/encryption.ts';
import type { Json } from '../../src/types/ids.ts';
import {
  buildArchive,
  codeOf,
  DATA_KEY,
  IDENTITY,
  type RawPart,
  readBack,
  sampleRows,
} from '../vectors/build-archive.ts';

const SEGMENTS: RawPart[] = [
  { part: 1, run: 0, raw: sampleRows(300, 1), rows: 2, continues: false },
  { part: 1, run: 0, raw: sampleRows(200, 2), rows: 1, continues: true },
  { part: 2, run: 1, raw: sampleRows(300, 3), rows: 3, continues: false },
];
const withKey = { dataKey: () => Promise.resolve(DATA_KEY) };

/** What somebody can do who can write to the storage but has no key: the bytes with a digest that fits again. */
function redigest(bytes: Uint8Array): Buffer {
  const undigested = bytes.subarray(0, bytes.length - 32);
  return Buffer.concat([undigested, createHash('sha256').update(undigested).digest()]);
}

/** A plain manifest written by hand from the document, with any header and body. */
function handmade(header: Json | Buffer, body: Json | Buffer = { segments: [], contents: {} }): Buffer {
  const json = (value: Json | Buffer) =>
    Buffer.isBuffer(value) ? value : Buffer.from(JSON.stringify(value));
  const [headerBytes, bodyBytes] = [json(header), json(body)];
  const front = Buffer.alloc(16);
  front.write('CCBKPMAN', 'latin1');
  front.writeUInt16BE(1, 8);
  front.writeUInt32BE(headerBytes.length, 12);
  const sizes = Buffer.alloc(8);
  sizes.writeUInt32BE(bodyBytes.length, 0);
  sizes.writeUInt32BE(bodyBytes.length, 4);
  return redigest(Buffer.concat([front, headerBytes, sizes, bodyBytes, Buffer.alloc(1 + 32)]));
}

const DIGEST = 'ab'.repeat(32);
const HEADER = {
  format: 'care-commons-backup',
  version: 1,
  identity: { ...IDENTITY },
  createdAt: '2026-01-31T02:00:00.000Z',
  parent: null,
  compression: 'NONE',
  checksum: 'SHA256',
  encryption: null,
  segmentSize: 4096,
  objects: [['o-000001', 30]],
  segments: [
    [0, 0, 10, DIGEST],
    [0, 10, 20, DIGEST],
  ],
} satisfies Json;
const BODY = {
  segments: [
    [1, 0, 0, 10, 1, 0],
    [1, 0, 1, 20, 1, 1],
  ],
  contents: {},
} satisfies Json;

test('the manifest written by hand from the document is read', async () => {
  const opened = await openManifest(handmade(HEADER, BODY), { expected: IDENTITY });
  expect(opened.segments[1]).toEqual({
    object: 0,
    offset: 10,
    length: 20,
    digest: DIGEST,
    part: 1,
    run: 0,
    ordinal: 1,
    rawLength: 20,
    rows: 1,
    continues: true,
  });
  expect(locate(opened.header, 1)).toEqual({ name: 'o-000001', offset: 10, length: 20 });
});

describe('the wire shape', () => {
  test('a change of the bytes needs another version', async () => {
    const built = await buildArchive({ segments: SEGMENTS, compression: 'NONE', contents: { a: [1, null] } });
    const hash = createHash('sha256');
    for (const bytes of [built.manifest, ...built.objects.values()]) hash.update(bytes);
    expect({ version: FORMAT_VERSION, hash: hash.digest('hex') }).toEqual({
      version: 1,
      hash: 'ae4ee856dd81f00067e46a3386afe71693a2b57b6ffb568a46ec92b89fe353a3',
    });
  });

  test('a change of the encrypted header’s fields needs another version', async () => {
    const built = await buildArchive({
      segments: SEGMENTS,
      dataKey: DATA_KEY,
      parent: { snapshotId: IDENTITY.snapshotId, digest: DIGEST },
    });
    const json = built.manifest.subarray(16, 16 + built.manifest.readUInt32BE(12)).toString();
    const shape = JSON.stringify(JSON.parse(json), (_, value: unknown) =>
      typeof value === 'object' ? value : typeof value,
    );
    expect({ version: FORMAT_VERSION, hash: createHash('sha256').update(shape).digest('hex') }).toEqual({
      version: 1,
      hash: 'f4ca530143e66fc9d197e374d56ca8fb4293320b3047df1f84e178cfa7f8d53e',
    });
  });
});

describe.each([
  ['encrypted', DATA_KEY],
  ['plain', undefined],
])('damage to a manifest, %s', (_, dataKey) => {
  const built = buildArchive({ segments: SEGMENTS, dataKey, contents: { rows: 6 } });

  test('cut at any byte', async () => {
    const { manifest } = await built;
    for (let length = 0; length < manifest.length; length += 1) {
      const cut = manifest.subarray(0, length);
      expect(await codeOf(() => readHeader(cut)), `at ${length}`).toBe('ARCHIVE_CORRUPT');
      if (length < 42) continue;
      expect(await codeOf(() => openManifest(redigest(cut), withKey)), `at ${length}`).toBe(
        'ARCHIVE_CORRUPT',
      );
    }
  });

  test('bytes after the end', async () => {
    const { manifest } = await built;
    const longer = Buffer.concat([manifest, Buffer.alloc(1)]);
    expect(await codeOf(() => readHeader(longer))).toBe('ARCHIVE_CORRUPT');
    expect(await codeOf(() => readHeader(redigest(longer)))).toBe('ARCHIVE_CORRUPT');
  });

  test('any byte changed, without keys', async () => {
    const { manifest } = await built;
    for (let at = 0; at < manifest.length; at += 1) {
      const changed = Buffer.from(manifest);
      changed[at] = (changed[at] ?? 0) ^ 0x20;
      const expected = at === 8 || at === 9 ? 'ARCHIVE_VERSION_UNSUPPORTED' : 'ARCHIVE_CORRUPT';
      expect(await codeOf(() => readHeader(changed)), `at ${at}`).toBe(expected);
    }
  });
});

test('any byte changed and the digest made to fit again is found with the key', async () => {
  const { manifest } = await buildArchive({ segments: SEGMENTS, dataKey: DATA_KEY });
  for (let at = 0; at < manifest.length - 32; at += 1) {
    const changed = Buffer.from(manifest);
    changed[at] = (changed[at] ?? 0) ^ 1;
    const code = await codeOf(() => openManifest(redigest(changed), withKey));
    expect(['ARCHIVE_CORRUPT', 'ARCHIVE_VERSION_UNSUPPORTED', 'KEY_UNAVAILABLE'], `at ${at}`).toContain(code);
  }
});

test('an encrypted manifest does not become a plain one', async () => {
  const { manifest } = await buildArchive({ segments: SEGMENTS, dataKey: DATA_KEY });
  const stripped = Buffer.from(manifest);
  stripped.writeUInt16BE(0, 10);
  expect(await codeOf(() => openManifest(redigest(stripped), withKey))).toBe('ARCHIVE_CORRUPT');
});

describe('a hostile header', () => {
  const text = JSON.stringify(HEADER);
  const cases: [string, Json | Buffer][] = [
    ['is not JSON', Buffer.from('{')],
    ['is not UTF-8', Buffer.from([0x22, 0xff, 0x22])],
    ['is a list', []],
    ['is null', null],
    ['has an unknown field', { ...HEADER, more: 1 }],
    ['has a field twice', Buffer.from(text.replace('"version":1', '"version":1,"version":1'))],
    ['has white space', Buffer.from(text.replace(':', ': '))],
    ['has a byte order mark', Buffer.from(`\uFEFF${text}`)],
    ['has another order', Object.fromEntries(Object.entries(HEADER).reverse())],
    ['has __proto__', Buffer.from(text.replace('"parent":null', '"__proto__":null'))],
    ['writes a number otherwise', Buffer.from(text.replace('4096', '4096.0'))],
    ['is of another version inside', { ...HEADER, version: 2 }],
    ['is of another format', { ...HEADER, format: 'tar' }],
    ['has an unknown compression', { ...HEADER, compression: 'LZMA' }],
    ['has an inherited name as compression', { ...HEADER, compression: 'constructor' }],
    ['has another digest algorithm', { ...HEADER, checksum: 'SHA512' }],
    [
      'claims encryption',
      { ...HEADER, encryption: { algorithm: 'AES-256-GCM', commitment: DIGEST, wrappedKeys: [] } },
    ],
    ['has an id with a path', { ...HEADER, identity: { ...IDENTITY, attemptId: '../../x' } }],
    ['has a number with a path', { ...HEADER, identity: { ...IDENTITY, snapshotNumber: 'a/b' } }],
    ['has an impossible time', { ...HEADER, createdAt: '2026-02-30T00:00:00.000Z' }],
    ['has a huge segment size', { ...HEADER, segmentSize: 2 ** 40 }],
    ['names an object with a path', { ...HEADER, objects: [['../secret', 30]] }],
    [
      'names objects twice',
      {
        ...HEADER,
        objects: [
          ['o-000001', 30],
          ['o-000001', 30],
        ],
      },
    ],
    ['has a negative size', { ...HEADER, objects: [['o-000001', -30]] }],
    ['has an unsafe size', { ...HEADER, objects: [['o-000001', 2 ** 60]] }],
    [
      'has an object without segments',
      {
        ...HEADER,
        objects: [
          ['o-000001', 30],
          ['o-000002', 0],
        ],
      },
    ],
    ['has a segment outside', { ...HEADER, segments: [...HEADER.segments, [1, 0, 1, DIGEST]] }],
    [
      'skips an object',
      {
        ...HEADER,
        objects: [
          ['o-000001', 10],
          ['o-000002', 0],
        ],
        segments: [[1, 0, 10, DIGEST]],
      },
    ],
    [
      'has a gap',
      {
        ...HEADER,
        segments: [
          [0, 0, 9, DIGEST],
          [0, 10, 20, DIGEST],
        ],
      },
    ],
    [
      'has an overlap',
      {
        ...HEADER,
        segments: [
          [0, 0, 11, DIGEST],
          [0, 10, 20, DIGEST],
        ],
      },
    ],
    ['has segments out of order', { ...HEADER, segments: HEADER.segments.toReversed() }],
    [
      'ends early',
      {
        ...HEADER,
        segments: [
          [0, 0, 10, DIGEST],
          [0, 10, 19, DIGEST],
        ],
      },
    ],
    [
      'ends late',
      {
        ...HEADER,
        segments: [
          [0, 0, 10, DIGEST],
          [0, 10, 21, DIGEST],
        ],
      },
    ],
    ['starts late', { ...HEADER, segments: [[0, 1, 29, DIGEST]] }],
    ['has a huge segment', { ...HEADER, objects: [['o-000001', 9000]], segments: [[0, 0, 9000, DIGEST]] }],
    ['has a short digest', { ...HEADER, segments: [[0, 0, 30, 'ab']] }],
    ['has a digest in capitals', { ...HEADER, segments: [[0, 0, 30, DIGEST.toUpperCase()]] }],
    ['has text for a number', { ...HEADER, segments: [[0, 0, '30', DIGEST]] }],
    ['has a parent without digest', { ...HEADER, parent: { snapshotId: IDENTITY.snapshotId, digest: '' } }],
  ];
  test.each(cases)('that %s', async (_, header) => {
    expect(await codeOf(() => readHeader(handmade(header, BODY)))).toBe('ARCHIVE_CORRUPT');
  });
});

describe('a hostile body', () => {
  const body = (...segments: Json[]): Json => ({ segments, contents: {} });
  const cases: [string, Json | Buffer][] = [
    ['is not JSON', Buffer.from('nope')],
    ['lacks a segment', body([1, 0, 0, 10, 1, 0])],
    ['has a segment too many', body([1, 0, 0, 10, 1, 0], [1, 0, 1, 20, 1, 0], [1, 0, 2, 20, 1, 0])],
    ['has an ordinal twice', body([1, 0, 0, 10, 1, 0], [1, 0, 0, 20, 1, 0])],
    ['leaves an ordinal out', body([1, 0, 0, 10, 1, 0], [1, 0, 2, 20, 1, 0])],
    ['starts a run late', body([1, 0, 0, 10, 1, 0], [1, 1, 1, 20, 1, 0])],
    ['continues at the start of a run', body([1, 0, 0, 10, 1, 1], [1, 0, 1, 20, 1, 0])],
    ['continues in another part', body([1, 0, 0, 10, 1, 0], [2, 0, 1, 20, 1, 1])],
    ['has a raw length above the segment size', body([1, 0, 0, 4097, 1, 0], [1, 0, 1, 20, 1, 0])],
    ['has unknown flags', body([1, 0, 0, 10, 1, 2], [1, 0, 1, 20, 1, 0])],
    ['has a part beyond 32 bits', body([2 ** 32, 0, 0, 10, 1, 0], [1, 0, 1, 20, 1, 0])],
    ['has a fraction of a row', body([1, 0, 0, 10, 0.5, 0], [1, 0, 1, 20, 1, 0])],
    ['has an unknown field', { ...BODY, more: 1 }],
    ['has no contents', { segments: BODY.segments }],
  ];
  test.each(cases)('that %s', async (_, hostile) => {
    expect(await codeOf(() => openManifest(handmade(HEADER, hostile)))).toBe('ARCHIVE_CORRUPT');
  });

  test('a body that inflates beyond its declared length', async () => {
    const { manifest } = await buildArchive({
      segments: [],
      contents: 'x'.repeat(100_000),
      compression: 'GZIP',
    });
    const at = 16 + manifest.readUInt32BE(12);
    for (const length of [10, 99_999, 2 ** 32 - 1]) {
      const bomb = Buffer.from(manifest);
      bomb.writeUInt32BE(length, at);
      expect(await codeOf(() => openManifest(redigest(bomb)))).toBe('ARCHIVE_CORRUPT');
    }
  });
});

describe('swaps by somebody who has the key are still found', () => {
  /** The manifest again with other contents for its segments, properly encrypted and authenticated. */
  async function forge(change: (contents: SegmentContent[]) => SegmentContent[]) {
    const built = await buildArchive({ segments: SEGMENTS, dataKey: DATA_KEY });
    const { header, segments } = await openManifest(built.manifest, withKey);
    const contents = segments.map(
      ({ object: _, offset: __, length: ___, digest: ____, ...content }) => content,
    );
    const body = { segments: change(contents), contents: {} };
    return { ...built, manifest: await encodeManifest(header, body, deriveSubkeys(DATA_KEY, IDENTITY)) };
  }

  const swap = <K extends keyof SegmentContent>(key: K, contents: SegmentContent[]): SegmentContent[] => {
    const [first, second, third] = contents;
    if (!first || !second || !third) throw new Error('three segments expected');
    return [{ ...first, [key]: third[key] }, second, { ...third, [key]: first[key] }];
  };

  test.each([
    ['nothing', (contents: SegmentContent[]) => contents, undefined],
    [
      'two runs',
      (contents: SegmentContent[]) => contents.map((c) => ({ ...c, run: c.run + 1 })),
      'ARCHIVE_CORRUPT',
    ],
    [
      'parts',
      (contents: SegmentContent[]) => contents.map((c) => ({ ...c, part: c.part + 1 })),
      'ARCHIVE_CORRUPT',
    ],
    ['rows', (contents: SegmentContent[]) => swap('rows', contents), 'ARCHIVE_CORRUPT'],
    [
      'flags',
      (contents: SegmentContent[]) => contents.map((c) => ({ ...c, continues: false })),
      'ARCHIVE_CORRUPT',
    ],
    [
      'order of a run',
      (contents: SegmentContent[]) =>
        contents.map((c) => ({ ...c, continues: false, ordinal: c.run === 0 ? 1 - c.ordinal : c.ordinal })),
      'ARCHIVE_CORRUPT',
    ],
  ])('%s', async (_, change, code) => {
    const forged = await forge(change);
    expect(await codeOf(() => readBack(forged))).toBe(code);
  });

  test('a segment of another attempt with the same data key', async () => {
    const other = { ...IDENTITY, attemptId: '0190b2c0-0000-7000-8000-0000000000ff' };
    const one = await buildArchive({ segments: SEGMENTS, dataKey: DATA_KEY });
    const two = await buildArchive({ segments: SEGMENTS, dataKey: DATA_KEY, identity: other });
    const opened = await openManifest(one.manifest, withKey);
    const foreign = await openManifest(two.manifest, withKey);
    // Its digest made to fit, under the first attempt's keys: only the encryption is left to find it.
    const location = foreign.header.segments[0];
    const stored = two.objects.get('o-000001')?.subarray(0, location?.length) ?? Buffer.alloc(0);
    const header: ManifestHeader = { ...opened.header, segments: foreign.header.segments };
    const mixed = { ...opened, header };
    expect(await codeOf(() => openSegment(foreign, 0, stored))).toBeUndefined();
    expect(await codeOf(() => openSegment(mixed, 0, stored))).toBe('ARCHIVE_CORRUPT');
    expect(await codeOf(() => openSegment(opened, 0, stored))).toBe('ARCHIVE_CORRUPT');
  });
});

test('an intact manifest of another attempt, snapshot, organization or number is not taken', async () => {
  const { manifest } = await buildArchive({ segments: SEGMENTS, dataKey: DATA_KEY });
  const other = '0190b2c0-0000-7000-8000-0000000000ff';
  const places = [
    { ...IDENTITY, attemptId: other },
    { ...IDENTITY, snapshotId: other },
    { ...IDENTITY, configurationId: other },
    { ...IDENTITY, organizationId: other },
    { ...IDENTITY, snapshotNumber: 'BKP-2026-000124' },
  ];
  for (const expected of places) {
    expect(await codeOf(() => openManifest(manifest, { ...withKey, expected }))).toBe('ARCHIVE_CORRUPT');
    expect(await codeOf(() => readHeader(manifest, expected))).toBe('ARCHIVE_CORRUPT');
  }
  expect(await codeOf(() => openManifest(manifest, { ...withKey, expected: IDENTITY }))).toBeUndefined();
});

test('a missing object is ARCHIVE_INCOMPLETE, a short or changed one ARCHIVE_CORRUPT, all without keys', async () => {
  const { manifest, objects } = await buildArchive({ segments: SEGMENTS, dataKey: DATA_KEY });
  const header = readHeader(manifest);
  const [plan = { name: '', size: 0, segments: [] }] = objectPlans(header);
  const object = objects.get('o-000001') ?? Buffer.alloc(0);
  const changed = Buffer.from(object);
  changed[5] = (changed[5] ?? 0) ^ 1;
  expect(await codeOf(() => checkObject(header, plan, undefined))).toBe('ARCHIVE_INCOMPLETE');
  expect(await codeOf(() => checkObject(header, plan, object.subarray(1)))).toBe('ARCHIVE_CORRUPT');
  expect(await codeOf(() => checkObject(header, plan, changed))).toBe('ARCHIVE_CORRUPT');
  expect(await codeOf(() => checkObject(header, plan, object))).toBeUndefined();
});

describe.each([...COMPRESSION_ALGORITHMS])('opening one %s segment', (compression) => {
  test.each([
    ['encrypted', DATA_KEY],
    ['plain', undefined],
  ])('checks its stored bytes, %s', async (_, dataKey) => {
    const built = await buildArchive({ segments: SEGMENTS.slice(0, 1), compression, dataKey });
    const opened = await openManifest(built.manifest, withKey);
    const stored = built.objects.get('o-000001') ?? Buffer.alloc(0);
    expect(await openSegment(opened, 0, stored)).toEqual(SEGMENTS[0]?.raw);
    for (let at = 0; at < stored.length; at += 1) {
      const changed = Buffer.from(stored);
      changed[at] = (changed[at] ?? 0) ^ 4;
      expect(await codeOf(() => openSegment(opened, 0, changed)), `at ${at}`).toBe('ARCHIVE_CORRUPT');
    }
    expect(await codeOf(() => openSegment(opened, 0, stored.subarray(1)))).toBe('ARCHIVE_CORRUPT');
    expect(await codeOf(() => openSegment(opened, 1, stored))).toBe('ARCHIVE_CORRUPT');
  });

  test.each([-300, -1, 1, 3000])('requires its raw length: %i bytes off', async (off) => {
    const built = await buildArchive({ segments: SEGMENTS.slice(0, 1), compression });
    const opened = await openManifest(built.manifest);
    const segments = opened.segments.map((segment) => ({ ...segment, rawLength: segment.rawLength + off }));
    const stored = built.objects.get('o-000001') ?? Buffer.alloc(0);
    expect(await codeOf(() => openSegment({ ...opened, segments }, 0, stored))).toBe('ARCHIVE_CORRUPT');
  });
});

test('names', () => {
  const path = `${IDENTITY.organizationId}/${IDENTITY.configurationId}/BKP-2026-000123/${IDENTITY.attemptId}/`;
  expect(attemptPrefix('backups', IDENTITY)).toBe(`backups/${path}`);
  expect(attemptPrefix('a/b/', IDENTITY)).toBe(`a/b/${path}`);
  expect(attemptPrefix('', IDENTITY)).toBe(path);
});
