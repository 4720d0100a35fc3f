import * as z from 'zod';
import type { ValidationIssue } from '../types/errors.ts';
import type { UUID } from '../types/ids.ts';
import {
  type ClientStamp,
  type DataVersion,
  type EntityRow,
  type QueueOperationInput,
  type QueueOptions,
  SYNC_OPERATIONS,
  SYNC_PRIORITIES,
} from '../types/offline-sync.ts';
import { isUuid } from '../utils/uuid.ts';
import { entityType, identifyingText, must, optional, timestamp, uuid, wholeNumber } from './fields.ts';
import { CustomFieldsSchema } from './json.ts';
import { parseInput } from './parse-input.ts';
import { checkPayload } from './payload.ts';
import { plainEnvelope } from './plain-operation.ts';
import { fieldOf, has, isRecord, listOf, textOf, withRule } from './rules.ts';

const MOST_DEPENDENCIES = 100;
const MOST_IN_BATCH = 50;

export const ClientStampSchema = z.strictObject({
  bootId: identifyingText(1, 200),
  monotonicMs: z.number().min(0).max(Number.MAX_SAFE_INTEGER),
  wallTime: timestamp,
  counter: wholeNumber(0),
}) satisfies z.ZodType<ClientStamp>;

export const QueueOptionsSchema = z.strictObject({
  sentAt: optional(ClientStampSchema),
}) satisfies z.ZodType<QueueOptions>;

/** A row that `checkPayload` has looked at. */
const row = z.custom<EntityRow>(isRecord, {
  error: 'Must be an object.',
  params: { remedy: 'Give an object with a value per column.' },
});

const dataVersion = z.strictObject({
  version: optional(wholeNumber(0)),
  data: optional(row),
  signature: optional(identifyingText(1, 1000)),
}) satisfies z.ZodType<Partial<DataVersion>>;

const dependencies = must(
  z.array(uuid).max(MOST_DEPENDENCIES),
  (ids) => new Set(ids).size === ids.length,
  'Names an operation twice.',
  'Name each operation once.',
);

const DELETE_REMEDY = 'Leave it out, or give {}.';

export const QueueOperationSchema = withRule(
  z.strictObject({
    organizationId: optional(uuid),
    userId: optional(uuid),
    deviceId: optional(identifyingText(1, 255)),
    installationId: optional(identifyingText(1, 255)),
    epoch: optional(wholeNumber(1)),
    operationId: optional(uuid),
    sequenceNumber: optional(wholeNumber(0)),
    operation: z.enum(SYNC_OPERATIONS),
    entityType,
    entityId: identifyingText(1, 512),
    payload: optional(row),
    schemaVersion: optional(wholeNumber(1, 1_000_000)),
    previousVersion: optional(dataVersion),
    previousOperationId: optional(uuid.nullable()),
    dependsOn: optional(dependencies),
    batchId: optional(uuid),
    batchSize: optional(wholeNumber(1, MOST_IN_BATCH)),
    priority: optional(z.enum(SYNC_PRIORITIES)),
    occurredAt: optional(timestamp),
    stamp: optional(ClientStampSchema),
    expiresAt: optional(timestamp),
    maxRetries: optional(wholeNumber(0, 100)),
    requiresApproval: optional(z.boolean()),
    branchId: optional(uuid),
    sessionId: optional(uuid),
    metadata: optional(CustomFieldsSchema),
  }),
  (operation, report) => {
    const payload = fieldOf(operation, 'payload');
    const deletes = textOf(operation, 'operation') === 'DELETE';
    if (deletes && isRecord(payload) && Object.keys(payload).length > 0) {
      report(['payload'], 'Is given with a DELETE.', DELETE_REMEDY);
    }
    if (!deletes && !has(operation, 'payload')) {
      report(['payload'], 'Is missing.', 'Give the row or the changes.');
    }
    if (has(operation, 'batchSize') && !has(operation, 'batchId')) {
      report(['batchId'], 'Is missing.', 'Give the id of the batch that `batchSize` is about.');
    }
    const id = textOf(operation, 'operationId')?.toLowerCase();
    if (id === undefined) return;
    if (textOf(operation, 'previousOperationId')?.toLowerCase() === id) {
      report(['previousOperationId'], 'Is the operation itself.', 'Name the one before it.');
    }
    if (
      listOf(operation, 'dependsOn').some((other) => typeof other === 'string' && other.toLowerCase() === id)
    ) {
      report(['dependsOn'], 'Names the operation itself.', 'Leave it out.');
    }
  },
) satisfies z.ZodType<QueueOperationInput>;

/** An operation with the defaults of its fields, ids in lower case and times in ISO 8601. */
export type ParsedOperation = Omit<
  z.infer<typeof QueueOperationSchema>,
  'payload' | 'schemaVersion' | 'dependsOn'
> & {
  readonly payload: EntityRow;
  readonly schemaVersion: number;
  readonly dependsOn: readonly UUID[];
};

export type ParsedInput =
  /** `bytes`: of its JSON, in UTF-8. */
  | { readonly operation: ParsedOperation; readonly bytes: number }
  | {
      readonly issues: readonly ValidationIssue[];
      /** Of the operation that cannot be taken, where it has one. */
      readonly operationId: UUID | undefined;
    };

/**
 * One operation of a device: its parts checked and copied, nothing of it trusted. The rows (payload and base) are looked
 * at by `checkPayload`, which is much faster than a schema of unknown fields; the rest by `QueueOperationSchema`.
 */
export function parseOperation(input: unknown): ParsedInput {
  const operationId = idOf(input);
  const issues: ValidationIssue[] = [];
  let bytes = 0;
  const take = (value: unknown, at: string): EntityRow => {
    const checked = checkPayload(value, at);
    if ('issues' in checked) {
      issues.push(...checked.issues);
      return {};
    }
    bytes += checked.bytes;
    return checked.payload;
  };
  const parts = partsOf(input);
  if (parts === undefined) {
    const issue = { path: '', message: 'Must be an object.', remedy: 'Give an operation.' };
    return { issues: [issue], operationId };
  }
  const { payload, base, version, envelope } = parts;
  const row = payload === undefined ? undefined : take(payload, 'payload');
  const data = base === undefined ? undefined : take(base, 'previousVersion.data');
  const taken = (parsed: Parsed): ParsedInput => ({
    operation: completed(parsed, row, data),
    bytes: bytes + envelopeBytes(parsed),
  });
  const plain = issues.length === 0 ? plainParts(parts, row) : undefined;
  if (plain !== undefined) return taken(plain);
  try {
    const parsed = parseInput(QueueOperationSchema, 'The operation', {
      ...envelope,
      ...(row === undefined ? {} : { payload: Object.keys(row).length === 0 ? {} : MARK }),
      ...(data === undefined ? {} : { previousVersion: { ...version, data: MARK } }),
    });
    return issues.length > 0 ? { issues, operationId } : taken(parsed);
  } catch (error) {
    return { issues: [...issues, ...issuesOf(error)], operationId };
  }
}

type Parsed = z.infer<typeof QueueOperationSchema>;

/** An operation of the common kind; undefined: the schema is to look at it. */
function plainParts(
  { envelope, base, version }: NonNullable<ReturnType<typeof partsOf>>,
  row: EntityRow | undefined,
): Parsed | undefined {
  const read = plainEnvelope(envelope);
  if (read === undefined) return undefined;
  const empty = row === undefined || Object.keys(row).length === 0;
  if (read.operation === 'DELETE' ? !empty : row === undefined) return undefined;
  if (base === undefined) return read as Parsed;
  const { version: number, signature, ...others } = version;
  const fits =
    Number.isSafeInteger(number) &&
    Number(number) >= 0 &&
    typeof signature === 'string' &&
    signature.length <= 1000 &&
    /^[\w.-]+$/.test(signature) &&
    Object.keys(others).length === 0;
  return fits ? ({ ...read, previousVersion: { version: number, signature } } as Parsed) : undefined;
}

/** What an operation without its rows takes in JSON. */
const envelopeBytes = (parsed: Parsed): number => Buffer.byteLength(JSON.stringify(parsed));

/** With the rows that were looked at by themselves, and the defaults. */
function completed(parsed: Parsed, row: EntityRow | undefined, data: EntityRow | undefined): ParsedOperation {
  const { previousVersion, ...rest } = parsed;
  return {
    ...rest,
    ...(previousVersion === undefined
      ? {}
      : { previousVersion: data === undefined ? previousVersion : { ...previousVersion, data } }),
    payload: row ?? {},
    schemaVersion: parsed.schemaVersion ?? 1,
    dependsOn: parsed.dependsOn ?? [],
  };
}

/** Stands for a row that is looked at by itself. */
const MARK = { row: true };

/** Each property of the input read once. undefined: it is no object, or reading it throws. */
function partsOf(input: unknown) {
  if (!isRecord(input)) return undefined;
  try {
    const { payload, previousVersion, ...envelope } = input;
    const isVersion = isRecord(previousVersion);
    const { data: base, ...version } = isVersion ? previousVersion : {};
    const others = isVersion || previousVersion === undefined ? {} : { previousVersion };
    const bare = isVersion && base === undefined ? { previousVersion: version } : {};
    return { payload, base, version, envelope: { ...envelope, ...others, ...bare } };
  } catch {
    return undefined;
  }
}

function idOf(input: unknown): UUID | undefined {
  try {
    const id = isRecord(input) ? input.operationId : undefined;
    return typeof id === 'string' && isUuid(id) ? id.toLowerCase() : undefined;
  } catch {
    return undefined;
  }
}

function issuesOf(error: unknown): readonly ValidationIssue[] {
  if (error instanceof Error && 'issues' in error && Array.isArray(error.issues)) return error.issues;
  throw error;
}
