import type { UUID } from '../types/ids.ts';
import type { EntityRow } from '../types/offline-sync.ts';
import { canonicalJson } from './canonical.ts';

/** What is signed of a row that is handed out, exactly as it is. No two entities, versions or rows give one text. */
export function signedText(handedOut: {
  readonly organizationId: UUID;
  readonly entityType: string;
  readonly entityId: string;
  readonly version: number;
  readonly row: EntityRow;
}): string {
  const { organizationId, entityType, entityId, version, row } = handedOut;
  return canonicalJson(['care-sync-base-1', organizationId, entityType, entityId, version, row]);
}
