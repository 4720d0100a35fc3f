import { manifestChecksum } from '../archive/manifest.ts';
import { checkObject, type ObjectPlan, objectPlans, openSegment } from '../archive/reader.ts';
import type { ValidationCheck, ValidationResults } from '../types/backup.ts';
import type { Clock } from '../types/clock.ts';
import { ArchiveError, DataProtectionError } from '../types/errors.ts';
import { copiesOf, isDamage, isNotFound, readCopy } from './copies.ts';
import { codeOf } from './failure.ts';
import { sidecarPlace, wholeSidecar, wholeSidecars } from './sidecars.ts';
import { missingAsIncomplete, type StoredArchive } from './stored-archive.ts';

const NEWLINE = 0x0a;
/** Damaged copies that the results name. */
const NAMED = 20;

/**
 * Downloads every object, checks its digests, opens every segment (tag, length) and counts its rows; then compares the
 * counts with what the manifest says of each table. Of several copies every one is read; what is whole in one passes, and
 * the check `copies` names the others. Damage is a failed check that names the object; a storage that
 * does not answer throws, since it says nothing about the backup.
 */
export async function verifyArchive(
  archive: StoredArchive,
  clock: Clock,
  signal: AbortSignal,
): Promise<ValidationResults> {
  const { manifest, contents, place, wrappedBy } = archive;
  const counts = contents.relations.map(() => ({ rows: 0, bytes: 0 }));
  const damaged: string[] = [];
  const passedOver = new Set<string>();
  if (copiesOf(place.storage).length > 1) {
    await checkManifests(archive, signal, passedOver);
    await checkSidecars(archive, signal, passedOver);
  }
  for (const plan of objectPlans(manifest.header)) {
    signal.throwIfAborted();
    await noting(damaged, plan.name, async () => {
      const stored = await missingAsIncomplete(readWhole(archive, plan, signal, passedOver));
      if (stored.length !== plan.size)
        damaged.push(`${plan.name} has ${stored.length} bytes instead of ${plan.size}`);
      for (const { index, offset, length } of plan.segments) {
        await noting(damaged, plan.name, async () => {
          const raw = await openSegment(manifest, index, stored.subarray(offset, offset + length));
          const segment = manifest.segments[index];
          const count = segment && counts[segment.part];
          if (segment === undefined || count === undefined) return;
          const rows = countRows(raw);
          if (rows !== segment.rows)
            damaged.push(`segment ${index} holds ${rows} rows instead of ${segment.rows}`);
          count.rows += rows;
          count.bytes += raw.length;
        });
      }
    });
  }
  const wrong = contents.relations.filter(
    (relation, part) => counts[part]?.rows !== relation.rows || counts[part]?.bytes !== relation.bytes,
  );
  const expected = contents.relations.reduce((sum, relation) => sum + relation.rows, 0);
  const found = counts.reduce((sum, count) => sum + count.rows, 0);
  const objects = manifest.header.objects.length;
  const checks: ValidationCheck[] = [
    {
      name: 'manifest',
      passed: true,
      details: `authentic, ${objects} objects, ${manifest.segments.length} segments`,
    },
    {
      name: 'objects',
      passed: damaged.length === 0,
      details:
        damaged.length === 0 ? `${objects} objects hold what was written` : damaged.slice(0, 20).join('; '),
    },
    {
      name: 'counts',
      passed: wrong.length === 0,
      details:
        wrong.length === 0
          ? `${found} rows in ${contents.relations.length} tables`
          : `rows missing in ${wrong.map(({ schema, name }) => `${schema}.${name}`).join(', ')}`,
    },
  ];
  if (wrappedBy !== null) {
    const { keyId, sidecar } = wrappedBy;
    const details = `opened by ${keyId}, wrapped in ${sidecar ?? 'the manifest'}`;
    checks.push({ name: 'key', passed: true, details });
  }
  if (copiesOf(place.storage).length > 1) {
    const names = [...passedOver].sort();
    const more = names.length > NAMED ? ` and ${names.length - NAMED} more` : '';
    checks.push({
      name: 'copies',
      // The snapshot can be restored from the others.
      passed: true,
      details:
        names.length === 0
          ? 'every copy is whole'
          : `not whole in every copy: ${names.slice(0, NAMED).join('; ')}${more}; replicate or heal them`,
    });
  }
  return {
    passed: checks.every((check) => check.passed),
    validatedAt: clock.now().toISOString(),
    recordsExpected: expected,
    recordsFound: found,
    checks,
  };
}

/**
 * An object from a store where it is whole; where it is so nowhere, what there is of it. Every copy is read: one that no
 * reader happened to need may be the one that is needed next.
 */
async function readWhole(
  { manifest, place }: StoredArchive,
  plan: ObjectPlan,
  signal: AbortSignal,
  passedOver: Set<string>,
): Promise<Uint8Array> {
  const key = `${place.prefix}${plan.name}`;
  let damaged: Uint8Array | undefined;
  const check = (stored: Uint8Array): Uint8Array => {
    damaged ??= stored;
    checkObject(manifest.header, plan, stored);
    return stored;
  };
  let whole: Uint8Array | undefined;
  const failures: unknown[] = [];
  for (const { storage } of copiesOf(place.storage)) {
    try {
      const stored = await readCopy(storage, key, { signal }, check);
      whole ??= stored;
    } catch (error) {
      signal.throwIfAborted();
      passedOver.add(`${plan.name} in ${storage.description} (${codeOf(error)})`);
      failures.push(error);
    }
  }
  if (whole !== undefined) return whole;
  // A store that does not answer may have it whole.
  const silent = failures.find((error) => !isDamage(error) && !isNotFound(error));
  if (silent === undefined && damaged !== undefined) return damaged;
  throw silent ?? failures[0];
}

async function checkManifests(
  { manifest, place }: StoredArchive,
  signal: AbortSignal,
  passedOver: Set<string>,
): Promise<void> {
  for (const { storage } of copiesOf(place.storage)) {
    try {
      await readCopy(storage, place.manifestKey, { signal }, (stored) => {
        if (manifestChecksum(manifest.header, stored) !== manifest.checksum)
          throw new ArchiveError('Another manifest lies there', 'ARCHIVE_CORRUPT');
      });
    } catch (error) {
      signal.throwIfAborted();
      passedOver.add(`manifest in ${storage.description} (${codeOf(error)})`);
    }
  }
}

async function checkSidecars(
  { manifest, place }: StoredArchive,
  signal: AbortSignal,
  passedOver: Set<string>,
): Promise<void> {
  const sidecars = sidecarPlace(place, manifest.header.identity);
  for (const name of await wholeSidecars(sidecars, signal)) {
    for (const { storage } of copiesOf(place.storage)) {
      try {
        const check = wholeSidecar(sidecars, name);
        await readCopy(storage, `${sidecars.folder}${name}`, { signal }, check);
      } catch (error) {
        signal.throwIfAborted();
        passedOver.add(`${name} in ${storage.description} (${codeOf(error)})`);
      }
    }
  }
}

/** Notes damage under the object's name; everything else is thrown. */
async function noting(damaged: string[], name: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof DataProtectionError) || !error.code.startsWith('ARCHIVE_')) throw error;
    damaged.push(`${name}: ${error.message}`);
  }
}

/** COPY text ends every row, and only a row, with a newline: those within values are written as `\n`. */
function countRows(raw: Buffer): number {
  let rows = 0;
  for (let at = raw.indexOf(NEWLINE); at !== -1; at = raw.indexOf(NEWLINE, at + 1)) rows += 1;
  return rows;
}
