import { randomUUID } from 'node:crypto';
import type {
  AdmissionAnswer,
  EntityRow,
  OfflineEntity,
  OfflineSession,
  OperationState,
  SyncOperation,
  SyncPriority,
} from '../../src/index.ts';

/** Something that was done on a device. */
export interface Edit {
  readonly operationId: string;
  readonly entityType: string;
  readonly entityId: string;
  readonly payload: EntityRow;
}

/** A phone: rows that it took along, an outbox, and now and then a network. */
export class Device {
  readonly deviceId = randomUUID();
  readonly #url: string;
  readonly #token: string;
  readonly #bases = new Map<string, { version: number; data: EntityRow; signature?: string }>();
  readonly #last = new Map<string, string>();
  readonly #bootId = randomUUID();
  #sequence = 0;
  #online = true;
  #session: OfflineSession | undefined;
  #outbox: Edit[] = [];
  #acknowledged: Edit[] = [];

  constructor(url: string, token: string) {
    this.#url = url;
    this.#token = token;
  }

  get waiting(): number {
    return this.#outbox.length;
  }

  /** What the server has said that it has. */
  get acknowledged(): readonly Edit[] {
    return this.#acknowledged;
  }

  async send<Answer>(method: 'POST' | 'PATCH' | 'GET', path: string, body?: object): Promise<Answer> {
    if (!this.#online) throw new Error('There is no network');
    const response = await fetch(`${this.#url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${this.#token}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify({ protocol: 1, ...body }) }),
    });
    const answer: unknown = await response.json();
    if (!response.ok) throw new Error(`${path}: ${response.status} ${JSON.stringify(answer)}`);
    return answer as Answer;
  }

  /** Takes rows along, with what the server says they are. */
  async take(entityType: string, entityIds: readonly string[]): Promise<void> {
    const { entities } = await this.send<{ entities: OfflineEntity[] }>('POST', '/sync/read', {
      entityType,
      entityIds,
    });
    for (const { entityId, version, data, signature } of entities) {
      this.#bases.set(entityId, { version, data, ...(signature === undefined ? {} : { signature }) });
      this.#last.delete(entityId);
    }
  }

  /** Says that it will be away, and is. */
  async goOffline(): Promise<void> {
    const { deviceId } = this;
    const networkStatus = { online: false };
    this.#session = await this.send<OfflineSession>('POST', '/sessions', { deviceId, networkStatus });
    this.#online = false;
  }

  async comeBack(): Promise<void> {
    this.#online = true;
    if (this.#session === undefined) return;
    const networkStatus = { online: true, connectionType: '4g' };
    await this.send('PATCH', '/sessions', { sessionId: this.#session.id, networkStatus });
  }

  /** Says that the time offline is over. */
  async endSession(): Promise<OfflineSession> {
    return this.send<OfflineSession>('PATCH', '/sessions', { sessionId: this.#session?.id });
  }

  /** Does something without asking the server. Gives the operation's id. */
  does(
    operation: SyncOperation,
    entityType: string,
    entityId: string,
    payload: EntityRow,
    more: { readonly priority?: SyncPriority } = {},
  ): string {
    const operationId = randomUUID();
    const previousVersion = this.#bases.get(entityId);
    this.#sequence += 1;
    const outgoing = {
      ...{ operationId, sequenceNumber: this.#sequence, operation, entityType, entityId, payload },
      previousOperationId: this.#last.get(entityId) ?? null,
      ...(previousVersion === undefined ? {} : { previousVersion }),
      stamp: this.#stamp(),
      ...more,
    };
    this.#outbox.push(outgoing);
    this.#last.set(entityId, operationId);
    return operationId;
  }

  /** Hands in what waits. `answer: 'LOST'`: the server has it, and the device does not know. */
  async push(answer: 'HEARD' | 'LOST' = 'HEARD'): Promise<readonly AdmissionAnswer[]> {
    const all: AdmissionAnswer[] = [];
    for (let i = 0; i < this.#outbox.length; i += 200) {
      const operations = this.#outbox.slice(i, i + 200);
      const { deviceId } = this;
      const body = { deviceId, epoch: 1, sentAt: this.#stamp(), operations };
      all.push(...(await this.send<{ answers: AdmissionAnswer[] }>('POST', '/sync/push', body)).answers);
    }
    if (answer === 'LOST') return [];
    const taken = new Set(
      all.filter(({ status }) => status !== 'REJECTED').map(({ operationId }) => operationId),
    );
    const isTaken = ({ operationId }: Edit): boolean => taken.has(operationId);
    this.#acknowledged = [...this.#acknowledged, ...this.#outbox.filter(isTaken)];
    this.#outbox = this.#outbox.filter((edit) => !isTaken(edit));
    return all;
  }

  async states(operationIds: readonly string[]): Promise<readonly OperationState[]> {
    return (await this.send<{ states: OperationState[] }>('POST', '/sync/states', { operationIds })).states;
  }

  #stamp() {
    return {
      bootId: this.#bootId,
      monotonicMs: performance.now(),
      wallTime: new Date().toISOString(),
      counter: this.#sequence,
    };
  }
}
