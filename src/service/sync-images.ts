import type { Database } from '../repository/database.ts';
import type { ClaimedOperation } from '../repository/sync-claims.ts';
import { type Predecessor, readPredecessors } from '../repository/sync-predecessors.ts';
import { clientImage } from '../sync/merge-patch.ts';
import type { UUID } from '../types/ids.ts';
import type { EntityRow, SyncQueueStatus } from '../types/offline-sync.ts';
import type { SyncContext } from './sync-context.ts';
import type { Prepared } from './sync-prepare.ts';
import type { Subject } from './sync-subject.ts';

/** What a client changed: known, or not. */
export type Base = { readonly known: true; readonly row: EntityRow | null } | { readonly known: false };

const UNKNOWN: Base = { known: false };
const NEVER_APPLIED: readonly SyncQueueStatus[] = ['FAILED', 'CANCELLED', 'EXPIRED'];
/** Further back nobody looks. */
const LONGEST_CHAIN = 1000;

/**
 * What each operation started from. For the first on an entity that is what the server had handed out; for a successor
 * the image that its predecessor had on the client, which is not what the server made of it.
 */
export class Images {
  readonly #context: SyncContext;
  readonly #db: Database;
  readonly #organizationId: UUID;
  readonly #known = new Map<UUID, Predecessor>();

  constructor(context: SyncContext, db: Database, organizationId: UUID) {
    this.#context = context;
    this.#db = db;
    this.#organizationId = organizationId;
  }

  /** Reads the predecessors of operations that are not among them. */
  async load(operations: readonly ClaimedOperation[]): Promise<void> {
    const own = new Set(operations.map(({ operationId }) => operationId));
    const wanted = operations.flatMap(({ previousOperationId: id }) =>
      id === null || own.has(id) ? [] : [id],
    );
    if (wanted.length > 0) await this.#read([...new Set(wanted)]);
  }

  /** Notes what an operation of this transaction came to. */
  note(
    operation: ClaimedOperation,
    came: Pick<Predecessor, 'status' | 'outcome' | 'appliedVersion' | 'clientImage'>,
  ): void {
    this.#known.set(operation.operationId, { ...operation, ...came });
  }

  async baseOf({ operation, entity }: Prepared, subject: Subject): Promise<Base> {
    if (operation.operation === 'CREATE') return { known: true, row: null };
    const trusted = trustedBase(operation);
    const previous = this.#previousOf(operation);
    // What it builds on has never arrived, or is forgotten: nobody knows what the client had.
    if (previous === undefined && this.#isLost(operation)) return UNKNOWN;
    if (previous === undefined) {
      if (trusted !== undefined) return trusted;
      // The version alone tells, as long as nothing has changed since.
      return operation.previousVersion?.version === subject.version && subject.everExisted
        ? { known: true, row: subject.row }
        : UNKNOWN;
    }
    // A person let go on what was built on something that never took effect: he looks at what comes of it.
    if (NEVER_APPLIED.includes(previous.status)) return UNKNOWN;
    const version = operation.previousVersion?.version;
    const applied = previous.appliedVersion;
    if (trusted !== undefined && applied !== null && version !== undefined && version >= applied)
      return trusted;
    return this.#imageOf(previous, entity.type, 0);
  }

  #isLost({ previousOperationId }: Pick<Predecessor, 'previousOperationId'>): boolean {
    return previousOperationId !== null && !this.#known.has(previousOperationId);
  }

  #previousOf(
    operation: Pick<Predecessor, 'previousOperationId' | 'entityType' | 'entityId'>,
  ): Predecessor | undefined {
    const { previousOperationId } = operation;
    const previous = previousOperationId === null ? undefined : this.#known.get(previousOperationId);
    // One that names another entity's operation before it waits for it, but starts from its own.
    const same = previous?.entityType === operation.entityType && previous.entityId === operation.entityId;
    return same ? previous : undefined;
  }

  async #imageOf(of: Predecessor, type: string, depth: number): Promise<Base> {
    if (of.clientImage !== undefined) return { known: true, row: of.clientImage };
    const payload = this.#context.entities
      .get(type)
      ?.current(of.operation, of.originalPayload ?? of.payload, of.originalSchemaVersion ?? of.schemaVersion);
    if (payload === undefined || depth > LONGEST_CHAIN) return UNKNOWN;
    const base = await this.#startOf(of, type, depth);
    const image = clientImage(of.operation, base.known ? base.row : undefined, payload);
    return image === undefined ? UNKNOWN : { known: true, row: image };
  }

  async #startOf(of: Predecessor, type: string, depth: number): Promise<Base> {
    if (of.operation === 'CREATE') return { known: true, row: null };
    if (of.previousOperationId !== null && !this.#known.has(of.previousOperationId))
      await this.#read([of.previousOperationId]);
    if (this.#isLost(of)) return UNKNOWN;
    const before = this.#previousOf(of);
    if (before !== undefined) return this.#imageOf(before, type, depth + 1);
    return trustedBase(of) ?? UNKNOWN;
  }

  async #read(operationIds: readonly UUID[]): Promise<void> {
    for (const one of await readPredecessors(this.#db, this.#organizationId, operationIds))
      this.#known.set(one.operationId, one);
  }
}

function trustedBase(of: Pick<Predecessor, 'baseTrusted' | 'previousVersion'>): Base | undefined {
  const row = of.previousVersion?.data;
  return of.baseTrusted && row !== undefined ? { known: true, row } : undefined;
}
