import { type Actor, PERMISSIONS, type Permission } from '../types/actor.ts';
import { ValidationError, type ValidationIssue } from '../types/errors.ts';
import { isUuid } from '../utils/uuid.ts';
import { plainCopy } from '../validation/plain-copy.ts';

const FIELDS = ['userId', 'organizationId', 'branchIds', 'permissions', 'deviceId'] as const;

/**
 * A copy of an actor's own fields, each read once, so that what was checked is what counts later; whatever else the
 * host's object holds is not looked at. Ids are in lower case. Permissions that are not the library's are the host's
 * own: they count for nothing here. Throws `VALIDATION_FAILED`.
 */
export function boundActor(actor: unknown): Actor {
  const view = {};
  for (const field of FIELDS) {
    const get = (): unknown => (isObject(actor) ? Reflect.get(actor, field) : undefined);
    Object.defineProperty(view, field, { enumerable: true, get });
  }
  const { value, issues: unreadable } = plainCopy(view);
  const { userId, organizationId, branchIds, permissions, deviceId }: { readonly [field: string]: unknown } =
    isObject(value) ? { ...value } : {};
  const issues: ValidationIssue[] = isObject(actor) ? [...unreadable] : [problem('', 'Is no actor.')];
  if (!isId(userId)) issues.push(problem('userId', 'Is not a UUID.'));
  if (!isId(organizationId)) issues.push(problem('organizationId', 'Is not a UUID.'));
  if (branchIds !== 'ALL' && !isListOf(branchIds, isId)) {
    issues.push(problem('branchIds', 'Is neither ALL nor a list of UUIDs.'));
  }
  if (!isListOf(permissions, isText)) issues.push(problem('permissions', 'Is not a list of permissions.'));
  if (deviceId !== undefined && !isText(deviceId)) issues.push(problem('deviceId', 'Is not text.'));
  if (
    issues.length > 0 ||
    !isId(userId) ||
    !isId(organizationId) ||
    !(branchIds === 'ALL' || isListOf(branchIds, isId)) ||
    !isListOf(permissions, isText)
  ) {
    throw new ValidationError('The actor', issues);
  }
  return {
    userId: userId.toLowerCase(),
    organizationId: organizationId.toLowerCase(),
    branchIds: branchIds === 'ALL' ? 'ALL' : branchIds.map((id) => id.toLowerCase()),
    permissions: permissions.filter(isPermission),
    ...(isText(deviceId) ? { deviceId } : {}),
  };
}

const problem = (path: string, message: string): ValidationIssue => ({
  path,
  message,
  remedy: 'Give an `Actor`: userId, organizationId, branchIds and permissions.',
});

const isObject = (value: unknown): value is object => typeof value === 'object' && value !== null;
const isText = (value: unknown): value is string => typeof value === 'string';
const isId = (value: unknown): value is string => isText(value) && isUuid(value);
const isPermission = (name: string): name is Permission => PERMISSIONS.some((known) => known === name);

function isListOf<T>(value: unknown, is: (item: unknown) => item is T): value is readonly T[] {
  return Array.isArray(value) && value.every(is);
}
