import type { Timestamp, UUID } from '../types/ids.ts';
import type { Parameters } from './row-mapping.ts';
import { type BoundScope, configurationVisible, idParameter, snapshotVisible } from './scope.ts';
import { RUNNING_STATUSES, SUCCESSFUL_STATUSES } from './snapshot-row.ts';

const quoted = (words: readonly string[]): string => words.map((word) => `'${word}'`).join(', ');

/**
 * Common table expressions over what lies where.
 *
 * `entered`: every visible snapshot that counts, and with `goneSince` those that counted once and no longer do since then
 * (`gone_at`).
 *
 * `placed`: each with every place that it lies in. CURRENT: a copy, `whole` where all of it is known to be there; FORMER:
 * left behind by a migration; RUNNING: what a run has stored so far; PRESENT: nothing, where a configuration would store
 * next. A snapshot stands once in each place.
 */
export function placements(
  scope: BoundScope,
  into: Parameters,
  {
    configurationId,
    goneSince,
  }: { readonly configurationId?: UUID | undefined; readonly goneSince?: Timestamp },
): string {
  const { db } = scope;
  const only = (column: string): string =>
    configurationId === undefined ? '' : `AND ${column} = ${into.add(idParameter(configurationId), 'uuid')}`;
  const counts = `t.deleted_at IS NULL AND t.status IN (${quoted(SUCCESSFUL_STATUSES)})`;
  const goneAt = `CASE WHEN NOT (${counts}) THEN coalesce(t.deleted_at, t.updated_at) END`;
  const counted =
    goneSince === undefined
      ? counts
      : `t.status IN (${quoted([...SUCCESSFUL_STATUSES, 'EXPIRED', 'DELETED'])})
           AND (${goneAt} IS NULL OR ${goneAt} >= ${into.add(goneSince, 'timestamptz')})`;
  return `
    entered AS (
      SELECT t.id, t.configuration_id, t.completed_at, t.storage_location AS l,
             ${goneAt} AS gone_at,
             (t.data_metrics->>'storedSizeBytes')::numeric AS bytes,
             (t.data_metrics->>'totalSizeBytes')::numeric AS raw_bytes,
             (t.data_metrics->>'objects')::numeric AS objects
        FROM ${db.table('backup_snapshots')} t
       WHERE ${snapshotVisible(scope, 't')} ${only('t.configuration_id')}
         AND ${counted}
         AND t.completed_at IS NOT NULL AND t.data_metrics IS NOT NULL AND t.storage_location IS NOT NULL
    ),
    everywhere AS (
      SELECT e.id, e.configuration_id, e.completed_at AS at, e.gone_at, 'CURRENT' AS kind, e.l->>'path' AS path,
             e.l->'destination' AS destination, e.l->>'description' AS description,
             e.bytes, 0::numeric AS pending, e.objects, true AS whole, NULL::numeric AS quota
        FROM entered e WHERE jsonb_array_length(e.l->'replicationLocations') = 0
      UNION ALL
      SELECT e.id, e.configuration_id, e.completed_at, e.gone_at, 'CURRENT', e.l->>'path',
             coalesce(e.l->'destination'->'destinations'->(r->>'index')::int, e.l->'destination'), r->>'description',
             (r->>'bytes')::numeric,
             CASE WHEN r->>'status' = 'COMPLETE' THEN 0 ELSE greatest(0, e.bytes - (r->>'bytes')::numeric) END,
             (r->>'objects')::numeric, r->>'status' = 'COMPLETE', NULL
        FROM entered e CROSS JOIN LATERAL jsonb_array_elements(e.l->'replicationLocations') r
      UNION ALL
      SELECT e.id, e.configuration_id, e.completed_at, e.gone_at, 'FORMER', f->>'path',
             coalesce(copy, f->'destination'), NULL, e.bytes, 0, e.objects, false, NULL
        FROM entered e CROSS JOIN LATERAL jsonb_array_elements(coalesce(e.l->'formerLocations', '[]')) f
        LEFT JOIN LATERAL jsonb_array_elements(f->'destination'->'destinations') copy ON true
      UNION ALL
      SELECT t.id, t.configuration_id, t.created_at, NULL, 'RUNNING', t.storage_location->>'path',
             coalesce(copy, t.storage_location->'destination'), NULL,
             coalesce((t.progress->>'bytesStored')::numeric, 0), 0, 0, false, NULL
        FROM ${db.table('backup_snapshots')} t
        LEFT JOIN LATERAL jsonb_array_elements(CASE WHEN jsonb_array_length(t.storage_location->'replicationLocations') > 0
          THEN t.storage_location->'destination'->'destinations' END) copy ON true
       WHERE ${snapshotVisible(scope, 't')} ${only('t.configuration_id')} AND t.deleted_at IS NULL
         AND t.status IN (${quoted(RUNNING_STATUSES)}) AND t.storage_location IS NOT NULL
      UNION ALL
      SELECT c.id, c.id, c.created_at, NULL, 'PRESENT', NULL, coalesce(copy, c.storage_destination), NULL, 0, 0, 0, false,
             coalesce(copy->>'quotaBytes', c.storage_destination->>'quotaBytes')::numeric
        FROM ${db.table('backup_configurations')} c
        LEFT JOIN LATERAL jsonb_array_elements(c.storage_destination->'destinations') copy ON true
       WHERE ${configurationVisible('c')} ${only('c.id')} AND c.deleted_at IS NULL
    ),
    located AS (
      SELECT e.*, ${placeOf('e.destination')}::text AS place,
             e.destination->'cloudStorage'->>'storageClass' AS storage_class,
             coalesce(substring(e.path FROM '[^/]+/[^/]+/[^/]+/[^/]+/$'), e.path) AS own_path
        FROM everywhere e
    ),
    placed AS (
      SELECT DISTINCT ON (id, place, own_path) * FROM located ORDER BY id, place, own_path, kind
    )`;
}

/**
 * What tells one place from another, as an expression: what the destination's validation holds apart, and nothing that
 * may change while the objects stay where they are (quota, credentials, class, locks).
 */
export function placeOf(destination: string): string {
  const cloud = `${destination}->'cloudStorage'`;
  const anywhere = (field: string): string =>
    ['cloudStorage', 'localStorage', 'networkShare', 'sftp']
      .map((member) => `${destination}->'${member}'->>'${field}'`)
      .join(', ');
  return `jsonb_build_array(${destination}->>'type', ${cloud}->>'bucketName', coalesce(${anywhere('path')}),
    ${cloud}->>'endpoint', ${cloud}->>'accountName', ${destination}->'sftp'->>'host',
    coalesce(${destination}->'sftp'->>'port', '22'), rtrim(coalesce(${anywhere('prefix')}, ''), '/'),
    CASE WHEN ${destination}->>'type' = 'AZURE_BLOB' AND ${cloud}->'accountName' IS NULL AND ${cloud}->'endpoint' IS NULL
      THEN ${cloud}->>'credentialsRef' END, ${destination}->'destinations')`;
}
