import * as z from 'zod';
import { type Actor, PERMISSIONS, type Permission } from '../types/actor.ts';
import { identifyingText, optional, uuid } from './fields.ts';
import { parseInput } from './parse-input.ts';

const isPermission = (name: string): name is Permission => PERMISSIONS.some((known) => known === name);

/** Permissions that are not the library's are the host's own: they count for nothing here. */
const ActorSchema = z.object({
  userId: uuid,
  organizationId: uuid,
  branchIds: z.union([z.literal('ALL'), z.array(uuid).max(10_000)]),
  permissions: z
    .array(z.string())
    .max(10_000)
    .transform((names) => names.filter(isPermission)),
  deviceId: optional(identifyingText(1, 255)),
}) satisfies z.ZodType<Actor>;

const FIELDS = ['userId', 'organizationId', 'branchIds', 'permissions', 'deviceId'] as const;

/**
 * A copy of an actor's own fields, each read once, so that what was checked is what counts later; whatever else the
 * host's object holds is not looked at. Ids are in lower case. Throws `VALIDATION_FAILED`.
 */
export function parseActor(actor: unknown): Actor {
  if (typeof actor !== 'object' || actor === null) return parseInput(ActorSchema, 'The actor', actor);
  const view = {};
  for (const field of FIELDS) {
    Object.defineProperty(view, field, { enumerable: true, get: () => Reflect.get(actor, field) });
  }
  return parseInput(ActorSchema, 'The actor', view);
}
