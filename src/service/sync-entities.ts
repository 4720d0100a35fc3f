import { DataProtectionError, type ValidationIssue } from '../types/errors.ts';
import type { Json } from '../types/ids.ts';
import type { EntityRow, SyncOperation } from '../types/offline-sync.ts';
import type {
  EntityHandler,
  EntityShape,
  StandardResult,
  StandardSchema,
  SyncEntityOptions,
} from '../types/sync-handler.ts';
import { normalizeEntityType } from '../utils/entity-type.ts';
import { isUuid } from '../utils/uuid.ts';

/** An entity type that can be synchronized: what the host said of it, with everything filled in. */
export interface SyncEntity {
  readonly type: string;
  readonly options: SyncEntityOptions;
  readonly handler: EntityHandler;
  readonly appendOnly: boolean;
  /** Asked of the handler once; a failure is not remembered. */
  shape(): Promise<EntityShape>;
  /** An id as rows have it. */
  idOf(entityId: string): Promise<string>;
  /** Of payloads that can be applied here. */
  readonly versions: readonly number[];
  /** A payload of an older version as one of the current; undefined: there is no way. */
  current(operation: SyncOperation, payload: EntityRow, schemaVersion: number): EntityRow | undefined;
  /** Whether the host wants a second person's approval of it. The payload is of the current version. */
  asksApproval(of: Parameters<NonNullable<SyncEntityOptions['requiresApproval']>>[0]): boolean;
  /** What is wrong with a payload of the current version. */
  check(operation: SyncOperation, payload: EntityRow): Promise<readonly ValidationIssue[]>;
  /** What is wrong with a whole row. */
  checkRow(row: EntityRow): Promise<readonly ValidationIssue[]>;
}

const PLAIN: EntityShape = { kinds: {}, serverOwned: [] };

/** Throws `CONFIGURATION_INVALID` for a type that is named twice or has no handler. */
export function syncEntities(
  given: readonly SyncEntityOptions[],
  tableHandler: (type: string) => EntityHandler | undefined,
): ReadonlyMap<string, SyncEntity> {
  const entities = new Map<string, SyncEntity>();
  for (const options of given) {
    const type = normalizeEntityType(options.type);
    if (entities.has(type)) throw invalid(`${type} stands twice in \`sync.entities\``);
    const handler = options.handler ?? tableHandler(type);
    if (handler === undefined) {
      throw invalid(
        `${type} of \`sync.entities\` is not in \`entities\`: register it, or give a \`handler\``,
      );
    }
    entities.set(type, syncEntity(type, options, handler));
  }
  return entities;
}

function syncEntity(type: string, options: SyncEntityOptions, handler: EntityHandler): SyncEntity {
  const version = options.schemaVersion ?? 1;
  let oldest = version;
  while (options.upcasters?.[oldest - 1] !== undefined) oldest -= 1;
  let shape: Promise<EntityShape> | undefined;
  const shapeOf = (): Promise<EntityShape> => {
    shape ??= Promise.resolve(handler.describe?.() ?? PLAIN).catch((error: unknown) => {
      shape = undefined;
      throw error;
    });
    return shape;
  };
  return {
    type,
    options,
    versions: Array.from({ length: version - oldest + 1 }, (_, i) => oldest + i),
    handler,
    appendOnly: options.appendOnly ?? type === 'EVV_RECORD',
    shape: shapeOf,
    async idOf(entityId) {
      if (!/[A-F]/.test(entityId) || !isUuid(entityId)) return entityId;
      return (await shapeOf()).idKind === 'UUID' ? entityId.toLowerCase() : entityId;
    },
    current(operation, payload, schemaVersion) {
      if (operation === 'DELETE') return payload;
      let row = payload;
      for (let at = schemaVersion; at < version; at += 1) {
        const upcast = options.upcasters?.[at];
        if (upcast === undefined) return undefined;
        row = upcast(row, operation);
      }
      return schemaVersion > version ? undefined : row;
    },
    asksApproval: (of) => options.requiresApproval?.(of) === true,
    check: (operation, payload) => validate(schemaFor(options.schema, operation), payload),
    checkRow: (row) => validate(options.rowSchema, row),
  };
}

/** The columns that an operation touches; `*`: all, or nobody knows. The payload is of the current version. */
export function touchedColumns(operation: SyncOperation, payload: EntityRow | undefined): readonly string[] {
  const partial = operation === 'PATCH' || operation === 'UPDATE';
  return partial && payload !== undefined ? Object.keys(payload) : ['*'];
}

function schemaFor(
  schema: SyncEntityOptions['schema'],
  operation: SyncOperation,
): StandardSchema | undefined {
  if (schema === undefined) return undefined;
  return isStandardSchema(schema) ? schema : schema[operation];
}

const isStandardSchema = (schema: NonNullable<SyncEntityOptions['schema']>): schema is StandardSchema =>
  '~standard' in schema;

async function validate(
  schema: StandardSchema | undefined,
  value: Json,
): Promise<readonly ValidationIssue[]> {
  if (schema === undefined) return [];
  const result: StandardResult = await schema['~standard'].validate(value);
  return (result.issues ?? []).map(({ path = [] }) => ({
    path: path.map((step) => String(typeof step === 'object' ? step.key : step)).join('.'),
    // The host's own sentence may quote the value.
    message: 'Is refused by the schema of the entity.',
    remedy: 'Send what the schema of this version describes.',
  }));
}

const invalid = (message: string): DataProtectionError =>
  new DataProtectionError(message, 'CONFIGURATION_INVALID');
