import Fastify, { type FastifyInstance } from 'fastify';
import {
  type Actor,
  type DataProtection,
  DataProtectionError,
  SYNC_MESSAGES,
  SYNC_PROTOCOL_VERSION,
  ValidationError,
} from '../../src/index.ts';
import { PEOPLE } from './people.ts';

const protocol = SYNC_PROTOCOL_VERSION;
const STATUS: Readonly<Record<string, number>> = {
  VALIDATION_FAILED: 400,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  INVALID_STATE: 409,
  CONFLICT_STALE: 409,
  DATABASE_UNAVAILABLE: 503,
};

/** The messages of the sync protocol over HTTP, as a platform would put them beside its own routes. */
export function createServer(protection: DataProtection): FastifyInstance {
  // Of 1 MiB of operations the envelope takes a little more.
  const server = Fastify({ bodyLimit: 1_200_000, logger: false });

  const actorOf = (authorization: string | undefined): Actor => {
    const actor = PEOPLE[authorization?.replace(/^Bearer /, '') ?? ''];
    if (actor === undefined) throw new DataProtectionError('Nobody is logged in', 'FORBIDDEN');
    return actor;
  };
  server.setErrorHandler((error, _request, reply) => {
    if (!(error instanceof DataProtectionError)) {
      return reply.code(500).send({ code: 'INTERNAL', message: 'Something went wrong', retryable: true });
    }
    const { code, message, retryable } = error;
    const issues = error instanceof ValidationError ? { issues: error.issues } : {};
    return reply.code(STATUS[code] ?? 500).send({ code, message, retryable, ...issues });
  });

  server.post<{
    Body: { operations?: readonly object[]; deviceId?: string; epoch?: number; sentAt?: never };
  }>('/sync/push', async (request) => {
    const sync = protection.sync(actorOf(request.headers.authorization));
    // Each operation is judged by itself: a bad one must not keep the others.
    const { operations = [], deviceId, epoch, sentAt } = request.body ?? {};
    const named = operations.map((operation) => ({
      ...(deviceId === undefined ? {} : { deviceId }),
      ...(epoch === undefined ? {} : { epoch }),
      ...operation,
    }));
    const answers = await sync.queueOperations(named as never, sentAt === undefined ? {} : { sentAt });
    return { protocol, answers, server: { epoch: null, anchor: null } };
  });

  server.post('/sync/read', async (request) => {
    const { entityType, entityIds } = accepted(
      'ReadRequest',
      SYNC_MESSAGES.ReadRequest.safeParse(request.body),
    );
    const entities = await protection
      .sync(actorOf(request.headers.authorization))
      .readForOffline(entityType, entityIds);
    return { protocol, entities };
  });

  server.post('/sync/states', async (request) => {
    const { operationIds } = accepted('StatesRequest', SYNC_MESSAGES.StatesRequest.safeParse(request.body));
    const states = await protection
      .sync(actorOf(request.headers.authorization))
      .getOperationStates(operationIds);
    return { protocol, states };
  });

  server.get('/conflicts', async (request) =>
    protection.sync(actorOf(request.headers.authorization)).listConflicts({ status: ['PENDING_MANUAL'] }),
  );

  server.post('/conflicts/resolve', async (request) => {
    const { resolution } = accepted('ResolveRequest', SYNC_MESSAGES.ResolveRequest.safeParse(request.body));
    return protection.sync(actorOf(request.headers.authorization)).resolveConflict(resolution);
  });
  return server;
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
