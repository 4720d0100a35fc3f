import * as z from 'zod';
import {
  type ApproveOperationInput,
  CONFLICT_STATUSES,
  CONFLICT_STRATEGIES,
  type DeviceInfo,
  type EditOperationInput,
  type EntityRow,
  type ListConflictsInput,
  type ListOperationsInput,
  type ListSyncEventsInput,
  type NetworkStatus,
  type ResolveConflictInput,
  type StartOfflineSessionInput,
  SYNC_EVENT_TYPES,
  SYNC_QUEUE_STATUSES,
  type SyncStatisticsInput,
} from '../types/offline-sync.ts';
import { entityType, identifyingText, must, optional, text, timestamp, uuid, wholeNumber } from './fields.ts';
import { CustomFieldsSchema } from './json.ts';
import { checkPayload } from './payload.ts';
import { has, textOf, withRule } from './rules.ts';

const row = z.unknown().transform((value, context): EntityRow => {
  const checked = checkPayload(value, 'row');
  if ('payload' in checked) return checked.payload;
  for (const { message, remedy } of checked.issues) {
    context.addIssue({ code: 'custom', message, params: { remedy } });
  }
  return z.NEVER;
});

const jsonPointer = must(
  identifyingText(1, 1000),
  (value) => value.startsWith('/') && !/~(?![01])/.test(value),
  'Is no JSON Pointer.',
  'Write the `path` of one of the conflicting fields, such as /notes.',
);

const seenVersion = z
  .custom<number>((value) => typeof value === 'number' && Number.isSafeInteger(value) && value >= 0, {
    error: 'Is missing, or no version.',
    params: {
      remedy: 'Give the version of the entity that was looked at: `serverVersionNumber` of the conflict.',
    },
  })
  // For the JSON Schema of the message.
  .meta({ type: 'integer', minimum: 0 });

export const ResolveConflictSchema = withRule(
  z.strictObject({
    conflictId: uuid,
    strategy: z.enum(CONFLICT_STRATEGIES),
    seenVersion,
    fields: optional(z.record(jsonPointer, z.enum(['CLIENT', 'SERVER']))),
    data: optional(z.union([z.null(), row])),
    resolvedBy: optional(uuid),
    notes: optional(text(0, 4000)),
  }),
  (input, report) => {
    const strategy = textOf(input, 'strategy');
    const takesData = strategy === 'MANUAL' || strategy === 'CUSTOM';
    const given = typeof input === 'object' && input !== null && 'data' in input;
    if (takesData && !given)
      report(['data'], 'Is missing.', 'Give the row that is to stand, or null to delete it.');
    if (!takesData && given) report(['data'], 'Is for MANUAL and CUSTOM only.', 'Leave it out.');
    if (has(input, 'fields') && strategy !== 'FIELD_LEVEL_MERGE') {
      report(['fields'], 'Is for FIELD_LEVEL_MERGE only.', 'Leave it out.');
    }
  },
) satisfies z.ZodType<ResolveConflictInput>;

export const NetworkStatusSchema = z.strictObject({
  online: z.boolean(),
  connectionType: optional(identifyingText(1, 50)),
  downlinkMbps: optional(z.number().min(0).max(1_000_000)),
  rttMs: optional(z.number().min(0).max(86_400_000)),
}) satisfies z.ZodType<NetworkStatus>;

export const DeviceInfoSchema: z.ZodType<DeviceInfo> = CustomFieldsSchema;

export const StartOfflineSessionSchema = z.strictObject({
  userId: uuid,
  deviceId: identifyingText(1, 255),
  organizationId: uuid,
  networkStatus: optional(NetworkStatusSchema),
  deviceInfo: optional(DeviceInfoSchema),
}) satisfies z.ZodType<StartOfflineSessionInput>;

export const ApproveOperationSchema = z.strictObject({
  seenVersion: optional(wholeNumber(0)),
  seenUpdatedAt: optional(timestamp),
}) satisfies z.ZodType<ApproveOperationInput>;

export const EditOperationSchema = z.strictObject({
  payload: row,
  schemaVersion: optional(wholeNumber(1, 1_000_000)),
}) satisfies z.ZodType<EditOperationInput>;

const paging = { limit: optional(wholeNumber(1, 1000)), cursor: optional(identifyingText(1, 1024)) };
const ofEntity = { entityType: optional(entityType), entityId: optional(identifyingText(1, 512)) };
const deviceId = optional(identifyingText(1, 255));

export const ListOperationsSchema = z.strictObject({
  ...paging,
  ...ofEntity,
  deviceId,
  status: optional(z.array(z.enum(SYNC_QUEUE_STATUSES)).min(1)),
  userId: optional(uuid),
}) satisfies z.ZodType<ListOperationsInput>;

export const ListConflictsSchema = z.strictObject({
  ...paging,
  ...ofEntity,
  deviceId,
  status: optional(z.array(z.enum(CONFLICT_STATUSES)).min(1)),
  assignedTo: optional(uuid),
}) satisfies z.ZodType<ListConflictsInput>;

export const ListSyncEventsSchema = z.strictObject({
  ...paging,
  ...ofEntity,
  deviceId,
  type: optional(z.array(z.enum(SYNC_EVENT_TYPES)).min(1)),
  operationId: optional(uuid),
}) satisfies z.ZodType<ListSyncEventsInput>;

export const SyncStatisticsInputSchema = z.strictObject({
  from: optional(timestamp),
  to: optional(timestamp),
  deviceId,
}) satisfies z.ZodType<SyncStatisticsInput>;
