import type { KnownPath } from '../repository/usage.ts';
import { DataProtectionError } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import type { MeasuredPlace } from '../types/usage.ts';
import type { Asking } from './asking.ts';
import { auditFolder } from './audit-storage.ts';
import { type CatalogUsage, describePlace, sum } from './catalog-usage.ts';

interface Listed {
  readonly objects: number;
  readonly bytes: number;
}

/** `<organization>/<configuration>/<number>/`, and the name of an attempt below it. */
const ATTEMPT_DEPTH = 4;

/**
 * Lists every place of the catalog and of the present destinations, and compares. A storage that does not answer is an
 * `error` of its place; the others are told. What begins or ends while the storages are listed is no difference: the
 * catalog is read before and after.
 */
export async function measureStorages(
  asking: Asking,
  { configurations, places }: CatalogUsage,
  configurationId: UUID | undefined,
  signal: AbortSignal,
): Promise<readonly MeasuredPlace[]> {
  const { context, actor, repository } = asking;
  const known = async () =>
    Map.groupBy(await repository.findKnownPaths(configurationId), ({ place }) => place);
  const before = await known();
  const bases =
    configurationId === undefined && actor.branchIds === 'ALL'
      ? [`${actor.organizationId}/`]
      : configurations.map((one) => `${actor.organizationId}/${one.configurationId}/`);
  const listings = [];
  for (const [place, group] of Map.groupBy(places, (one) => one.place)) {
    listings.push({ place, group, listed: await listPlace(asking, group, bases, signal) });
  }
  const after = await known();
  return listings.flatMap(({ place, group, listed }): MeasuredPlace[] => {
    const [first] = group;
    if (first === undefined) return [];
    const about = { description: describePlace(context, group), type: first.type };
    if (listed instanceof DataProtectionError) return [{ ...about, ...NOT_LISTED, error: listed.code }];
    const paths = { before: before.get(place) ?? [], after: after.get(place) ?? [] };
    return [
      {
        ...about,
        error: null,
        ...compare(listed, paths, actor.organizationId, actor.branchIds === 'ALL' ? 'ALL' : 'OWN'),
      },
    ];
  });
}

const NOT_LISTED = { objects: 0, bytes: 0, unaccounted: null, missingSnapshots: 0 };

/** What lies in each folder of an attempt, by its path from the organization on; or why that cannot be told. */
async function listPlace(
  { context }: Asking,
  group: CatalogUsage['places'],
  bases: readonly string[],
  signal: AbortSignal,
): Promise<ReadonlyMap<string, Listed> | DataProtectionError> {
  const [first] = group;
  const listed = new Map<string, Listed>();
  if (first === undefined) return listed;
  try {
    const { storage, prefix } = context.openStorage(first.destination);
    const root = prefix === '' ? '' : `${prefix}/`;
    for (const base of bases) {
      for await (const { key, size } of storage.list(`${root}${base}`, { signal })) {
        signal.throwIfAborted();
        const path = folderOf(key.slice(root.length));
        const { objects, bytes } = listed.get(path) ?? { objects: 0, bytes: 0 };
        listed.set(path, { objects: objects + 1, bytes: bytes + size });
      }
    }
    return listed;
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof DataProtectionError) return error;
    throw error;
  }
}

/** The folder of the attempt, or, for what lies beside attempts (sidecars), of the snapshot. */
function folderOf(path: string): string {
  return `${path.split('/').slice(0, -1).slice(0, ATTEMPT_DEPTH).join('/')}/`;
}

const snapshotFolder = (path: string): string =>
  `${path
    .split('/')
    .slice(0, ATTEMPT_DEPTH - 1)
    .join('/')}/`;

function compare(
  listed: ReadonlyMap<string, Listed>,
  { before, after }: { readonly before: readonly KnownPath[]; readonly after: readonly KnownPath[] },
  organizationId: UUID,
  sees: 'ALL' | 'OWN',
): Pick<MeasuredPlace, 'objects' | 'bytes' | 'unaccounted' | 'missingSnapshots'> {
  const folders = new Set([
    ...[...before, ...after].flatMap(({ path }) => [path, snapshotFolder(path)]),
    auditFolder(organizationId),
  ]);
  const [accounted, others]: [Listed[], Listed[]] = [[], []];
  for (const [folder, found] of listed) (folders.has(folder) ? accounted : others).push(found);
  const still = new Set(after.filter(({ whole }) => whole).map(({ path }) => path));
  const expected = before.filter(({ path, whole }) => whole && still.has(path));
  return {
    ...added(sees === 'ALL' ? [...accounted, ...others] : accounted),
    unaccounted: sees === 'ALL' ? added(others) : null,
    missingSnapshots: expected.filter(({ path }) => !listed.has(path)).length,
  };
}

const added = (found: readonly Listed[]): Listed => ({
  objects: sum(found.map(({ objects }) => objects)),
  bytes: sum(found.map(({ bytes }) => bytes)),
});
