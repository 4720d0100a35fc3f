import { randomUUID } from 'node:crypto';
import type { AdmissionAnswer, EntityRow, OperationState, SyncOperation } from '../../src/index.ts';

interface Outgoing {
  readonly operationId: string;
  readonly entityId: string;
  readonly [field: string]: unknown;
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
  #outbox: Outgoing[] = [];

  constructor(url: string, token: string) {
    this.#url = url;
    this.#token = token;
  }

  get waiting(): number {
    return this.#outbox.length;
  }

  async post<Answer>(path: string, body: object): Promise<Answer> {
    const response = await fetch(`${this.#url}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${this.#token}` },
      body: JSON.stringify({ protocol: 1, ...body }),
    });
    const answer: unknown = await response.json();
    if (!response.ok) throw new Error(`${path}: ${response.status} ${JSON.stringify(answer)}`);
    return answer as Answer;
  }

  /** Takes rows along, with what the server says they are. */
  async take(entityType: string, entityIds: readonly string[]): Promise<void> {
    const { entities } = await this.post<{
      entities: { entityId: string; version: number; data: EntityRow; signature?: string }[];
    }>('/sync/read', { entityType, entityIds });
    for (const { entityId, version, data, signature } of entities) {
      this.#bases.set(entityId, { version, data, ...(signature === undefined ? {} : { signature }) });
      this.#last.delete(entityId);
    }
  }

  /** Does something without a network. Gives the operation's id. */
  does(operation: SyncOperation, entityType: string, entityId: string, payload: EntityRow): string {
    const operationId = randomUUID();
    const previousVersion = this.#bases.get(entityId);
    this.#sequence += 1;
    this.#outbox.push({
      ...{ operationId, sequenceNumber: this.#sequence, operation, entityType, entityId, payload },
      previousOperationId: this.#last.get(entityId) ?? null,
      ...(previousVersion === undefined ? {} : { previousVersion }),
      stamp: this.#stamp(),
    });
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
      all.push(...(await this.post<{ answers: AdmissionAnswer[] }>('/sync/push', body)).answers);
    }
    if (answer === 'LOST') return [];
    const taken = new Set(
      all.filter(({ status }) => status !== 'REJECTED').map(({ operationId }) => operationId),
    );
    this.#outbox = this.#outbox.filter(({ operationId }) => !taken.has(operationId));
    return all;
  }

  async states(operationIds: readonly string[]): Promise<readonly OperationState[]> {
    return (await this.post<{ states: OperationState[] }>('/sync/states', { operationIds })).states;
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
