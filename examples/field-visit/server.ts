import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify';
import {
  type Actor,
  type DataProtection,
  DataProtectionError,
  type OfflineSyncService,
  SYNC_MESSAGES,
  SYNC_PROTOCOL_VERSION,
  ValidationError,
} from '../../src/index.ts';
import { PEOPLE } from './people.ts';

const protocol = SYNC_PROTOCOL_VERSION;
const STATUS: Readonly<Record<string, number>> = {
  VALIDATION_FAILED: 400,
  ENTITY_UNKNOWN: 400,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  INVALID_STATE: 409,
  CONFLICT_STALE: 409,
};

/** The messages of the sync protocol over HTTP, as a platform would put them beside its own routes. */
export function createServer(protection: DataProtection): FastifyInstance {
  // Of 1 MiB of operations the envelope takes a little more.
  const server = Fastify({ bodyLimit: 1_200_000, logger: false });
  const syncFor = (request: FastifyRequest): OfflineSyncService => protection.sync(actorOf(request));

  // Before the body is read.
  server.addHook('onRequest', async (request) => void actorOf(request));
  server.setErrorHandler((error, _request, reply) => {
    const { status, body } = answerTo(error);
    return reply.code(status).send(body);
  });

  server.post('/sync/push', async (request) => {
    // Each operation is judged by itself: a bad one must not keep the others.
    const { operations, ...envelope } = partsOf(request.body);
    const { deviceId, installationId, epoch, sentAt } = accepted(
      'PushRequest',
      SYNC_MESSAGES.PushRequest.safeParse({
        ...envelope,
        operations: Array.isArray(operations) ? [] : operations,
      }),
    );
    const shared = {
      deviceId,
      ...(installationId === undefined ? {} : { installationId }),
      ...(epoch === undefined ? {} : { epoch }),
    };
    const named = (operations as object[]).map((operation) => ({ ...shared, ...operation }));
    const answers = await syncFor(request).queueOperations(
      named as never,
      sentAt === undefined ? {} : { sentAt },
    );
    return { protocol, answers, server: { epoch: null, anchor: null } };
  });

  server.post('/sync/read', async (request) => {
    const { entityType, entityIds } = accepted(
      'ReadRequest',
      SYNC_MESSAGES.ReadRequest.safeParse(request.body),
    );
    return { protocol, entities: await syncFor(request).readForOffline(entityType, entityIds) };
  });

  server.post('/sync/states', async (request) => {
    const { operationIds } = accepted('StatesRequest', SYNC_MESSAGES.StatesRequest.safeParse(request.body));
    return { protocol, states: await syncFor(request).getOperationStates(operationIds) };
  });

  server.post('/sessions', async (request) => {
    const { deviceId, networkStatus, deviceInfo } = accepted(
      'SessionStart',
      SYNC_MESSAGES.SessionStart.safeParse(request.body),
    );
    const { userId, organizationId } = actorOf(request);
    const more = {
      ...(networkStatus === undefined ? {} : { networkStatus }),
      ...(deviceInfo === undefined ? {} : { deviceInfo }),
    };
    return syncFor(request).startOfflineSession(userId, deviceId, organizationId, more);
  });

  /** With a network status the session goes on, without it ends. */
  server.patch('/sessions', async (request) => {
    if ('networkStatus' in partsOf(request.body)) {
      const { sessionId, networkStatus } = accepted(
        'SessionNetwork',
        SYNC_MESSAGES.SessionNetwork.safeParse(request.body),
      );
      return syncFor(request).updateNetworkStatus(sessionId, networkStatus);
    }
    const { sessionId } = accepted('SessionEnd', SYNC_MESSAGES.SessionEnd.safeParse(request.body));
    return syncFor(request).endOfflineSession(sessionId);
  });

  server.get<{ Querystring: { status?: 'PENDING_MANUAL' | 'RESOLVED' } }>('/conflicts', async (request) =>
    syncFor(request).listConflicts({ status: [request.query.status ?? 'PENDING_MANUAL'] }),
  );

  server.post<{ Params: { id: string } }>('/conflicts/:id/resolve', async (request) => {
    const { resolution, ...envelope } = partsOf(request.body);
    const named = { ...envelope, resolution: { ...partsOf(resolution), conflictId: request.params.id } };
    const message = accepted('ResolveRequest', SYNC_MESSAGES.ResolveRequest.safeParse(named));
    return syncFor(request).resolveConflict(message.resolution);
  });
  return server;
}

class NotLoggedIn extends Error {}

function actorOf({ headers }: FastifyRequest): Actor {
  const actor = PEOPLE.get(headers.authorization?.replace(/^Bearer /, '') ?? '');
  if (actor === undefined) throw new NotLoggedIn();
  return actor;
}

/** What the caller is told of an error: the library's messages are safe to show, others' and causes are not. */
function answerTo(error: unknown): { status: number; body: object } {
  if (error instanceof DataProtectionError) {
    const { code, message, retryable } = error;
    const issues = error instanceof ValidationError ? { issues: error.issues } : {};
    return {
      status: STATUS[code] ?? (retryable ? 503 : 500),
      body: { code, message, retryable, ...issues },
    };
  }
  if (error instanceof NotLoggedIn) {
    return { status: 401, body: { code: 'NOT_LOGGED_IN', message: 'Nobody is logged in', retryable: false } };
  }
  // Such as a body that is too large or no JSON.
  const { statusCode } = partsOf(error);
  return typeof statusCode === 'number' && statusCode < 500
    ? {
        status: statusCode,
        body: { code: 'BAD_REQUEST', message: 'The request cannot be read', retryable: false },
      }
    : { status: 500, body: { code: 'INTERNAL', message: 'Something went wrong', retryable: true } };
}

function partsOf(value: unknown): { readonly [name: string]: unknown } {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}

type Checked<T> =
  | { readonly success: true; readonly data: T }
  | {
      readonly success: false;
      readonly error: { readonly issues: readonly { readonly path: PropertyKey[] }[] };
    };

/** A request as the protocol has it, or VALIDATION_FAILED. */
function accepted<T>(name: string, result: Checked<T>): T {
  if (result.success) return result.data;
  throw new ValidationError(
    name,
    result.error.issues.slice(0, 20).map(({ path }) => ({
      path: path.map(String).join('.'),
      message: 'Is not what the protocol has here.',
      remedy: 'See docs/sync-protocol.md.',
    })),
  );
}
