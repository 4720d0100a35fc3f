/** Why a snapshot stays. The first group is rule 1, the second rule 2; the third stops retention as a whole. */
export type KeepRule =
  | 'RETENTION_DAYS'
  | 'HOURLY'
  | 'DAILY'
  | 'WEEKLY'
  | 'MONTHLY'
  | 'YEARLY'
  | 'OLDEST'
  | 'KEEP_LAST'
  | 'EMERGENCY'
  | 'LOCKED'
  | 'LEGAL_HOLD'
  | 'COMPLIANCE'
  | 'LAST_VERIFIED_FULL'
  | 'ANCESTOR'
  | 'AUTO_DELETE_OFF'
  | 'WOULD_EMPTY';

/** Why a snapshot goes. */
export type DeleteRule = 'NO_RULE_KEEPS' | 'MAX_AGE' | 'MAX_BACKUPS' | 'MAX_SIZE';

export interface RetentionReason {
  readonly rule: KeepRule | DeleteRule | 'NOT_SUCCESSFUL';
  /** For people: names, numbers and dates only. */
  readonly text: string;
}

/** Reasons by snapshot id, gathered. */
export class Reasons {
  readonly #byId = new Map<string, RetentionReason[]>();

  add(id: string, rule: RetentionReason['rule'], text: string): void {
    const reasons = this.#byId.get(id) ?? [];
    if (!reasons.some((known) => known.rule === rule && known.text === text)) reasons.push({ rule, text });
    this.#byId.set(id, reasons);
  }

  has(id: string): boolean {
    return this.#byId.has(id);
  }

  of(id: string): readonly RetentionReason[] {
    return this.#byId.get(id) ?? [];
  }
}
