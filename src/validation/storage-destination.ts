import * as z from 'zod';
import { type CloudStorage, STORAGE_TYPES, type StorageDestination } from '../types/backup.ts';
import { must, optional, reference, text, webUrl, wholeNumber } from './fields.ts';
import { RetentionPolicySchema, StoredRetentionPolicySchema } from './retention.ts';
import { fieldOf, has, listOf, numberOf, type Report, textOf, under, withRule } from './rules.ts';

const MEMBERS = ['cloudStorage', 'localStorage', 'networkShare', 'sftp', 'destinations'] as const;

/** The one member that each type needs. */
const MEMBER_OF: Readonly<Record<(typeof STORAGE_TYPES)[number], (typeof MEMBERS)[number]>> = {
  AWS_S3: 'cloudStorage',
  AZURE_BLOB: 'cloudStorage',
  GOOGLE_CLOUD_STORAGE: 'cloudStorage',
  LOCAL_FILESYSTEM: 'localStorage',
  NETWORK_SHARE: 'networkShare',
  SFTP: 'sftp',
  MULTI: 'destinations',
};

const PROVIDER_OF: Readonly<Record<string, string>> = {
  AWS_S3: 'AWS',
  AZURE_BLOB: 'AZURE',
  GOOGLE_CLOUD_STORAGE: 'GCP',
};

/** The start of object names: plain segments. A slash at the end is dropped. */
const prefix = must(
  z.string().max(400),
  (value) => /^(?:[A-Za-z0-9][A-Za-z0-9._-]*(?:\/[A-Za-z0-9][A-Za-z0-9._-]*)*\/?)?$/.test(value),
  'Is not a relative path of plain segments.',
  'Write segments of letters, digits, `-`, `_` and `.`, joined by `/`, such as backups/production.',
).overwrite((value) => value.replace(/\/$/, ''));

const cloudStorage = z.strictObject({
  provider: z.enum(['AWS', 'AZURE', 'GCP']),
  region: optional(text(1, 100)),
  bucketName: must(
    z.string().min(1).max(255),
    (value) => /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(value),
    'Is not the name of a bucket or container.',
    'Write its name only: letters, digits, `-`, `_` and `.`.',
  ),
  prefix: optional(prefix),
  endpoint: optional(webUrl),
  accountName: optional(
    must(
      z.string().min(3).max(24),
      (value) => /^[a-z0-9]+$/.test(value),
      'Is not the name of a storage account.',
      'Write 3 to 24 lower-case letters and digits.',
    ),
  ),
  storageClass: optional(text(1, 100)),
  serverSideEncryption: optional(
    z.strictObject({
      type: z.enum(['PROVIDER_KEY', 'KMS', 'CUSTOMER_KEY']),
      keyId: optional(text(1, 2048)),
      customerKeyRef: optional(reference),
    }),
  ),
  objectLock: optional(
    z.strictObject({ mode: z.enum(['GOVERNANCE', 'COMPLIANCE']), retainDays: wholeNumber(1, 36_500) }),
  ),
  credentialsRef: optional(reference),
}) satisfies z.ZodType<CloudStorage>;

const directory = z.strictObject({ path: text(1, 4096), prefix: optional(prefix) });

const sftp = z.strictObject({
  host: must(
    z.string().min(1).max(255),
    (value) => /^[A-Za-z0-9[][A-Za-z0-9.:_\]-]*$/.test(value),
    'Is not the name or address of a host.',
    'Write the host only, such as backup.example.com; no user, password or path.',
  ),
  port: optional(wholeNumber(1, 65_535)),
  path: text(1, 4096),
  credentialsRef: optional(reference),
  hostKey: optional(text(1, 4096)),
  prefix: optional(prefix),
});

const singleFields = {
  type: z.enum(STORAGE_TYPES),
  cloudStorage: optional(cloudStorage),
  localStorage: optional(directory),
  networkShare: optional(
    z.strictObject({ path: text(1, 4096), mountPoint: optional(text(1, 4096)), prefix: optional(prefix) }),
  ),
  sftp: optional(sftp),
  minimumConfirmations: optional(wholeNumber(1, 16)),
  quotaBytes: optional(wholeNumber(1)),
};

/** A destination as it is stored: its fields, without the rules between them. */
export const StoredStorageDestinationSchema = z.strictObject({
  ...singleFields,
  retention: optional(StoredRetentionPolicySchema),
  destinations: optional(
    z
      .array(z.lazy((): z.ZodType<StorageDestination, StorageDestination> => StoredStorageDestinationSchema))
      .max(16),
  ),
}) satisfies z.ZodType<StorageDestination>;

export const StorageDestinationSchema = withRule(
  z.strictObject({
    ...singleFields,
    retention: optional(RetentionPolicySchema),
    destinations: optional(
      z
        .array(z.lazy((): z.ZodType<StorageDestination, StorageDestination> => StorageDestinationSchema))
        .max(16),
    ),
  }),
  destinationRule,
) satisfies z.ZodType<StorageDestination>;

function destinationRule(destination: unknown, report: Report): void {
  const type = STORAGE_TYPES.find((known) => known === textOf(destination, 'type'));
  if (type === undefined) return;
  const needed = MEMBER_OF[type];
  if (!has(destination, needed)) report([needed], `Is missing: ${type} needs it.`, `Give \`${needed}\`.`);
  for (const member of MEMBERS) {
    if (member !== needed && has(destination, member)) {
      report([member], `Does not belong to ${type}.`, `Remove it; ${type} takes \`${needed}\`.`);
    }
  }
  const provider = textOf(fieldOf(destination, 'cloudStorage'), 'provider');
  const expected = PROVIDER_OF[type];
  if (provider !== undefined && expected !== undefined && provider !== expected) {
    report(['cloudStorage', 'provider'], `Is not the provider of ${type}.`, `Write ${expected}.`);
  }
  cloudRule(fieldOf(destination, 'cloudStorage'), type, under(report, 'cloudStorage'));
  if (type === 'MULTI') multiRule(destination, report);
  else if (has(destination, 'minimumConfirmations')) {
    report(['minimumConfirmations'], `Does not belong to ${type}.`, 'Remove it, or use MULTI.');
  }
}

function cloudRule(cloud: unknown, type: string, report: Report): void {
  if (cloud === undefined) return;
  if (type === 'AZURE_BLOB') {
    // A credential may be a connection string, which names the account.
    if (!has(cloud, 'accountName') && !has(cloud, 'endpoint') && !has(cloud, 'credentialsRef')) {
      report(['accountName'], 'Is missing: AZURE_BLOB needs it.', 'Give the storage account, or `endpoint`.');
    }
  } else if (has(cloud, 'accountName')) {
    report(['accountName'], `Does not belong to ${type}.`, 'Remove it.');
  }
  const encryption = fieldOf(cloud, 'serverSideEncryption');
  const kind = textOf(encryption, 'type');
  for (const [needs, field] of [
    ['KMS', 'keyId'],
    ['CUSTOMER_KEY', 'customerKeyRef'],
  ] as const) {
    if (kind === needs && !has(encryption, field)) {
      report(['serverSideEncryption', field], `Is missing: ${needs} needs it.`, `Give \`${field}\`.`);
    }
    if (kind !== undefined && kind !== needs && has(encryption, field)) {
      report(['serverSideEncryption', field], `Does not belong to ${kind}.`, 'Remove it.');
    }
  }
}

function multiRule(multi: unknown, report: Report): void {
  if (!has(multi, 'destinations')) return;
  const destinations = listOf(multi, 'destinations');
  if (destinations.length < 2) {
    report(['destinations'], 'Holds fewer than two destinations.', 'Give at least two, the primary first.');
  }
  const seen = new Set<string>();
  for (const [index, destination] of destinations.entries()) {
    if (textOf(destination, 'type') === 'MULTI') {
      report(['destinations', index, 'type'], 'Is MULTI inside MULTI.', 'List all stores in one MULTI.');
    }
    if (has(destination, 'quotaBytes') && has(multi, 'quotaBytes')) {
      report(['quotaBytes'], 'Is given besides those of the copies.', 'Give one, or one for each copy.');
    }
    const place = placeOf(destination);
    if (place === undefined) continue;
    if (seen.has(place))
      report(
        ['destinations', index],
        'Is there twice: a copy in the same place protects nothing.',
        'Remove it.',
      );
    seen.add(place);
  }
  if ((numberOf(multi, 'minimumConfirmations') ?? 1) > Math.max(destinations.length, 1)) {
    report(['minimumConfirmations'], 'Is more than there are destinations.', 'Give at most their number.');
  }
}

/** What tells one place from another; undefined where the destination does not name one. */
function placeOf(destination: unknown): string | undefined {
  const member = MEMBERS.map((name) => fieldOf(destination, name)).find((value) => value !== undefined);
  const where = textOf(member, 'bucketName') ?? textOf(member, 'path');
  if (where === undefined) return undefined;
  const rest = ['endpoint', 'accountName', 'host', 'prefix'].map((name) => textOf(member, name) ?? '');
  return JSON.stringify([textOf(destination, 'type'), where, numberOf(member, 'port') ?? '', ...rest]);
}
