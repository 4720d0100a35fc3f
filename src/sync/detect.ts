import type { UUID } from '../types/ids.ts';
import type { ConflictType, EntityRow, FieldConflict, SyncOperation } from '../types/offline-sync.ts';
import type { EntityShape, MergePolicy } from '../types/sync-handler.ts';
import { kindOf, sameValue } from './canonical.ts';
import { own, type Slot } from './json-object.ts';
import { imageOver } from './merge-patch.ts';
import { type Merged, mergeRows, type Side } from './three-way-merge.ts';

/** How the rows of an entity are compared and merged. */
export interface MergeRules {
  readonly shape: EntityShape;
  /** By JSON Pointer, as in `MergeInput`. */
  readonly policies: { readonly [path: string]: MergePolicy };
  /** false: changes of different paths conflict too. */
  readonly mergeDisjoint: boolean;
  /** The key of entries that are appended without one. */
  readonly operationId?: UUID | undefined;
}

export interface DetectionInput extends MergeRules {
  readonly operation: SyncOperation;
  /** Of the current schema version. */
  readonly payload: EntityRow;
  /** What the client changed; `row: null`: there was nothing. */
  readonly base: { readonly known: true; readonly row: EntityRow | null } | { readonly known: false };
  readonly server: {
    /** HIDDEN: it is there, and the actor may not see it. Its row is not looked at. */
    readonly state: 'VISIBLE' | 'HIDDEN' | 'DELETED' | 'ABSENT';
    readonly row: EntityRow | null;
    /** Of what is ABSENT: whether it was there once. */
    readonly everExisted: boolean;
  };
}

/** Why two versions cannot both stand. */
export type ConflictReason =
  /** Both changed the same. */
  | 'SAME_PATHS'
  /** The server changed something, and the client deletes, or the entity’s options say that nothing is merged unasked. */
  | 'SERVER_CHANGED'
  /** The client's values differ, and nobody knows what it had changed. */
  | 'BASE_UNKNOWN'
  | 'ALREADY_EXISTS'
  | 'SERVER_DELETED'
  | 'NEVER_EXISTED';

export interface DetectedConflict {
  readonly kind: 'CONFLICT';
  readonly type: ConflictType;
  readonly reason: ConflictReason;
  /** null: there was nothing, or (`baseKnown` false) nobody knows. */
  readonly base: EntityRow | null;
  readonly baseKnown: boolean;
  /** The entity as the client has it; where its base is not known, what it says over the server's row. null: deleted. */
  readonly client: EntityRow | null;
  /** null: deleted, not there, or not to be seen. */
  readonly server: EntityRow | null;
  /** The server's row with everything of the client's that does not conflict; null where there is none. */
  readonly merged: EntityRow | null;
  /** Where one side has deleted the entity: what the other changed. */
  readonly fields: readonly FieldConflict[];
  /** Whether the entity's id is free, or was its own. */
  readonly creatable: boolean;
  readonly rules: MergeRules;
}

export interface EntityWrite {
  readonly change: 'CREATE' | 'UPDATE' | 'DELETE';
  /** The whole row as it is to stand; null: deleted. */
  readonly row: EntityRow | null;
  /** The columns that differ; none with DELETE. */
  readonly changed: readonly string[];
}

export type Detection =
  /** It is so already. */
  | { readonly kind: 'NOTHING' }
  /** `merged`: the server had changed elsewhere, and the row is not the client's. */
  | (EntityWrite & { readonly kind: 'WRITE'; readonly merged: boolean })
  | { readonly kind: 'REJECT'; readonly code: 'ENTITY_ID_TAKEN' }
  | DetectedConflict;

const NOTHING: Detection = { kind: 'NOTHING' };

/** What an operation means for its entity as that is now: the table of `docs/sync-protocol.md`. Never throws. */
export function detectConflict(given: DetectionInput): Detection {
  const { operation, server, base } = given;
  const existed = server.everExisted || (base.known && base.row !== null);
  const input: DetectionInput =
    operation === 'CREATE' ? { ...given, base: { known: true, row: null } } : given;
  switch (server.state) {
    case 'VISIBLE':
      return onRow(input, server.row ?? {});
    case 'HIDDEN':
      return onHidden(input);
    case 'DELETED':
      return operation === 'DELETE' ? NOTHING : conflictOnNothing(input, operation, 'UPDATE_DELETE');
    default:
      if (operation === 'DELETE') return NOTHING;
      return existed ? conflictOnNothing(input, operation, 'UPDATE_DELETE') : onNothing(input, operation);
  }
}

type Writing = Exclude<SyncOperation, 'DELETE'>;

/** To the actor it was never there, except where he wants its id for something of his. */
function onHidden(input: DetectionInput): Detection {
  const { operation, base } = input;
  if (operation === 'DELETE') {
    // What he was given once and may not see any more is not deleted by him.
    if (!base.known || base.row === null) return NOTHING;
    return { ...conflict(input, 'DEPENDENCY', 'NEVER_EXISTED'), client: null, creatable: false };
  }
  if (operation === 'UPDATE' || operation === 'PATCH')
    return conflictOnNothing(input, operation, 'DEPENDENCY');
  return { kind: 'REJECT', code: 'ENTITY_ID_TAKEN' };
}

function onNothing(input: DetectionInput, operation: Writing): Detection {
  if (operation === 'UPDATE' || operation === 'PATCH')
    return conflictOnNothing(input, operation, 'DEPENDENCY');
  return { kind: 'WRITE', ...creationOf(newRow(input.payload, input)), merged: false };
}

/** A row that is to be where none is: without what the server fills in, and without nulls. */
export function newRow(row: EntityRow, rules: MergeRules): EntityRow {
  const { shape, policies, operationId } = rules;
  return mergeRows({ base: {}, server: {}, client: row, shape, policies, operationId }).merged;
}

function conflictOnNothing(
  input: DetectionInput,
  operation: Writing,
  type: 'UPDATE_DELETE' | 'DEPENDENCY',
): DetectedConflict {
  const { base } = input;
  const client = imageOver(operation, base.known ? base.row : null, input.payload);
  const fields = changesOf(base.known ? (base.row ?? {}) : undefined, client, input);
  return {
    ...conflict(input, type, type === 'DEPENDENCY' ? 'NEVER_EXISTED' : 'SERVER_DELETED'),
    client,
    fields: fields.map(({ serverValue: _, ...field }) => field),
    creatable: input.server.state !== 'HIDDEN',
  };
}

function onRow(input: DetectionInput, server: EntityRow): Detection {
  const { operation, base } = input;
  if (operation === 'DELETE') return deletion(input, server);
  const from = base.known ? base.row : server;
  const versions = {
    base: base.known ? base.row : null,
    baseKnown: base.known,
    client: imageOver(operation, from, input.payload),
    server,
  };
  if (operation === 'CREATE') return compared(input, versions, 'CREATE_CREATE', 'ALREADY_EXISTS');
  const type = operation === 'UPDATE' ? 'UPDATE_UPDATE' : 'FIELD_LEVEL';
  if (!base.known) return compared(input, versions, type, 'BASE_UNKNOWN');
  const asked = asks(versions, input);
  return compared(input, versions, type, asked ? 'SERVER_CHANGED' : 'SAME_PATHS');
}

function deletion(input: DetectionInput, server: EntityRow): Detection {
  const { base } = input;
  if (!base.known) return { ...conflict(input, 'DELETE_UPDATE', 'BASE_UNKNOWN'), server, merged: server };
  const fields = changesOf(base.row ?? {}, server, input);
  if (fields.length === 0) return { kind: 'WRITE', ...DELETION, merged: false };
  return {
    ...conflict(input, 'DELETE_UPDATE', 'SERVER_CHANGED'),
    server,
    merged: server,
    fields: fields.map(({ clientValue, serverValue: _, ...field }) => ({
      ...field,
      ...(clientValue === undefined ? {} : { serverValue: clientValue }),
    })),
  };
}

/** Two rows that are both there. */
interface Versions {
  readonly base: EntityRow | null;
  readonly baseKnown: boolean;
  readonly client: EntityRow;
  readonly server: EntityRow;
}

function compared(
  input: DetectionInput,
  versions: Versions,
  type: ConflictType,
  reason: ConflictReason,
): Detection {
  const { shape } = input;
  const { client, server } = versions;
  const { merged, conflicts, serverChanged } = mergeVersions(versions, input);
  if (conflicts.length > 0)
    return { ...conflict(input, type, reason), client, server, merged, fields: conflicts };
  const write = writeOf(server, merged, shape);
  if (write === undefined) return NOTHING;
  const elsewhere = serverChanged.length > 0 && differences(client, merged, shape).length > 0;
  return { kind: 'WRITE', ...write, merged: elsewhere };
}

/** The merge of two versions that are both there, under the rules of their entity. */
export function mergeVersions(
  versions: Versions,
  rules: MergeRules,
  sideOf?: (path: string) => Side,
): Merged {
  const { base, baseKnown, client, server } = versions;
  const { shape, policies, operationId } = rules;
  const common = { server, shape, policies, operationId };
  if (!baseKnown) return mergeRows({ ...common, base: undefined, client }, sideOf);
  // Both have made it: what the client does not name is the server's.
  if (base === null)
    return mergeRows({ ...common, base: undefined, client: namedOver(server, client) }, sideOf);
  return mergeRows({ ...common, base, client, disjoint: asks(versions, rules) ? 'ASK' : 'MERGE' }, sideOf);
}

function asks(
  { base, server }: Pick<Versions, 'base' | 'server'>,
  { mergeDisjoint, shape }: MergeRules,
): boolean {
  return !mergeDisjoint && base !== null && differences(base, server, shape).length > 0;
}

/** A row with what another names: null is not named. */
const namedOver = (server: EntityRow, client: EntityRow): EntityRow => ({
  ...server,
  ...Object.fromEntries(Object.entries(client).filter(([, value]) => value !== null)),
});

/** In what a row differs from what it was; in what it names, where nobody knows what it was. */
function changesOf(base: EntityRow | undefined, row: EntityRow, rules: MergeRules): readonly FieldConflict[] {
  const { shape } = rules;
  return mergeRows({ base, server: base ?? {}, client: row, shape, policies: {}, disjoint: 'ASK' }).conflicts;
}

function conflict(input: DetectionInput, type: ConflictType, reason: ConflictReason): DetectedConflict {
  const { base, shape, policies, mergeDisjoint, operationId } = input;
  return {
    kind: 'CONFLICT',
    type,
    reason,
    base: base.known ? base.row : null,
    baseKnown: base.known,
    client: null,
    server: null,
    merged: null,
    fields: [],
    creatable: true,
    rules: { shape, policies, mergeDisjoint, operationId },
  };
}

const DELETION: EntityWrite = { change: 'DELETE', row: null, changed: [] };

const creationOf = (row: EntityRow): EntityWrite => ({ change: 'CREATE', row, changed: Object.keys(row) });

/** What is to be written so that a row stands; undefined: it does. */
export function writeOf(
  server: EntityRow | null,
  row: EntityRow | null,
  shape: EntityShape,
): EntityWrite | undefined {
  if (row === null) return server === null ? undefined : DELETION;
  if (server === null) return creationOf(row);
  const changed = differences(server, row, shape);
  return changed.length === 0 ? undefined : { change: 'UPDATE', row, changed };
}

/** The columns in which two rows differ, but the server's own. */
export function differences(a: EntityRow, b: EntityRow, shape: EntityShape): readonly string[] {
  const columnOf = (row: EntityRow, column: string): Slot => own(row, column) ?? undefined;
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].filter(
    (column) =>
      !shape.serverOwned.includes(column) &&
      !sameValue(columnOf(a, column), columnOf(b, column), kindOf(shape, column)),
  );
}
