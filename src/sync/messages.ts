import * as z from 'zod';
import { SYNC_OUTCOMES, SYNC_QUEUE_STATUSES } from '../types/offline-sync.ts';
import {
  ClientStampSchema,
  DeviceInfoSchema,
  NetworkStatusSchema,
  QueueOperationSchema,
  ResolveConflictSchema,
} from '../validation/index.ts';

/**
 * The messages between a device and a server, as `docs/sync-protocol.md` describes them. What a device sends is strict;
 * what it gets may hold more than it knows, from a newer server of the same version. A change of a message raises the
 * version: a test holds the two together.
 */
export const SYNC_PROTOCOL_VERSION = 1;

const MOST_OPERATIONS = 500;
const text = (max: number) => z.string().min(1).max(max);
const protocol = z.literal(SYNC_PROTOCOL_VERSION);
const id = z.uuid();

const issue = z.looseObject({ path: z.string(), message: z.string(), remedy: z.string() });

const OperationStateMessage = z.looseObject({
  operationId: id,
  status: z.enum(SYNC_QUEUE_STATUSES),
  outcome: z.enum(SYNC_OUTCOMES).nullable(),
  reason: z.string().nullable(),
  appliedVersion: z.int().min(0).nullable(),
  conflictId: id.nullable(),
  superseded: z.array(z.string()),
});

const AdmissionAnswerMessage = z.discriminatedUnion('status', [
  z.looseObject({ operationId: id, status: z.literal('ACCEPTED'), sequenceNumber: z.int().min(0) }),
  z.looseObject({ operationId: id, status: z.literal('DUPLICATE'), state: OperationStateMessage }),
  z.looseObject({
    operationId: id,
    status: z.literal('REJECTED'),
    code: z.string(),
    message: z.string(),
    issues: z.array(issue),
    state: OperationStateMessage.optional(),
  }),
]);

const EntityMessage = z.looseObject({
  entityType: z.string(),
  entityId: z.string(),
  version: z.int().min(0),
  data: z.record(z.string(), z.json()),
  signature: z.string().optional(),
});

/** Every message by its name. */
export const SYNC_MESSAGES = {
  PushRequest: z.strictObject({
    protocol,
    deviceId: text(255),
    installationId: text(255).optional(),
    epoch: z.int().min(1).optional(),
    sentAt: ClientStampSchema.optional(),
    operations: z.array(QueueOperationSchema).max(MOST_OPERATIONS),
  }),
  PushResponse: z.looseObject({
    protocol,
    answers: z.array(AdmissionAnswerMessage),
    /** Room for a server that says that it lost work: null in this version. */
    server: z.looseObject({ epoch: z.string().nullable(), anchor: z.string().nullable() }),
    retryAfterMs: z.int().min(0).optional(),
  }),
  ReadRequest: z.strictObject({
    protocol,
    entityType: text(100),
    entityIds: z.array(text(512)).max(MOST_OPERATIONS),
  }),
  ReadResponse: z.looseObject({ protocol, entities: z.array(EntityMessage) }),
  StatesRequest: z.strictObject({ protocol, operationIds: z.array(id).max(MOST_OPERATIONS) }),
  StatesResponse: z.looseObject({ protocol, states: z.array(OperationStateMessage) }),
  SessionStart: z.strictObject({
    protocol,
    deviceId: text(255),
    networkStatus: NetworkStatusSchema.optional(),
    deviceInfo: DeviceInfoSchema.optional(),
  }),
  SessionNetwork: z.strictObject({ protocol, sessionId: id, networkStatus: NetworkStatusSchema }),
  SessionEnd: z.strictObject({ protocol, sessionId: id }),
  ResolveRequest: z.strictObject({ protocol, resolution: ResolveConflictSchema }),
  ErrorResponse: z.looseObject({
    code: z.string(),
    message: z.string(),
    retryable: z.boolean(),
    issues: z.array(issue).optional(),
  }),
} as const satisfies Readonly<Record<string, z.ZodType>>;

export type SyncMessageName = keyof typeof SYNC_MESSAGES;
