import type { SyncQueueStatus } from '../types/offline-sync.ts';

/** What may become of an operation, by its status. The trigger in `migrations/0004_sync.sql` says the same; a test compares. */
export const STATUS_CHANGES: Readonly<Record<SyncQueueStatus, readonly SyncQueueStatus[]>> = {
  PENDING: [
    'IN_PROGRESS',
    'PAUSED',
    'CANCELLED',
    'EXPIRED',
    'BLOCKED',
    'PARKED',
    'CONFLICT',
    'FAILED',
    'WAITING_APPROVAL',
  ],
  IN_PROGRESS: [
    'PENDING',
    'COMPLETED',
    'FAILED',
    'CONFLICT',
    'PARKED',
    'WAITING_APPROVAL',
    'BLOCKED',
    'AWAITING_EFFECT',
  ],
  COMPLETED: [],
  FAILED: ['PENDING', 'CANCELLED', 'WAITING_APPROVAL'],
  CONFLICT: ['PENDING', 'CANCELLED'],
  EXPIRED: ['PENDING', 'CANCELLED'],
  CANCELLED: [],
  PAUSED: ['PENDING', 'CANCELLED', 'EXPIRED', 'WAITING_APPROVAL'],
  WAITING_APPROVAL: ['PENDING', 'CANCELLED', 'EXPIRED', 'FAILED', 'PAUSED', 'BLOCKED'],
  BLOCKED: ['PENDING', 'CANCELLED', 'EXPIRED', 'CONFLICT', 'FAILED', 'PARKED', 'WAITING_APPROVAL'],
  AWAITING_EFFECT: ['COMPLETED', 'FAILED', 'PENDING', 'PARKED'],
  PARKED: ['PENDING', 'CANCELLED', 'WAITING_APPROVAL'],
};

/** Whether an operation may go from one status to another. It may always stay as it is. */
export function mayBecome(from: SyncQueueStatus, to: SyncQueueStatus): boolean {
  return from === to || STATUS_CHANGES[from].includes(to);
}
