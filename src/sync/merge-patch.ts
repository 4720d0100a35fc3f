import type { Json } from '../types/ids.ts';
import type { EntityRow, SyncOperation } from '../types/offline-sync.ts';
import { isObject, type JsonObject, own, type Slot } from './json-object.ts';

/** JSON Merge Patch, RFC 7396. Of any depth; gives a new value and changes neither. */
export function mergePatch(target: Slot, patch: Json): Json {
  return isObject(patch) ? patched(target, patch) : patch;
}

function patched(target: Slot, patch: JsonObject): JsonObject {
  const result = copyOf(target);
  const open = [{ into: result, patch }];
  // Grows while it is walked.
  for (const { into, patch: changes } of open) {
    for (const [name, value] of Object.entries(changes)) {
      if (value === null) delete into[name];
      else if (!isObject(value)) put(into, name, value);
      else {
        const inner = copyOf(own(into, name));
        put(into, name, inner);
        open.push({ into: inner, patch: value });
      }
    }
  }
  return result;
}

function copyOf(value: Slot): { [key: string]: Json } {
  return isObject(value) ? { ...value } : {};
}

/** An assignment to `__proto__` would set the prototype. */
function put(into: { [key: string]: Json }, name: string, value: Json): void {
  Object.defineProperty(into, name, { value, enumerable: true, configurable: true, writable: true });
}

/**
 * The entity as the device has it after an operation. null: deleted. undefined: nobody knows, since the operation is
 * partial and so is what is known of its base. `base` null: there was none.
 */
export function clientImage(
  operation: SyncOperation,
  base: EntityRow | null | undefined,
  payload: EntityRow,
): EntityRow | null | undefined {
  if (operation === 'DELETE') return null;
  if (operation === 'CREATE') return payload;
  return base === undefined ? undefined : imageOver(operation, base, payload);
}

/** The same for an operation that leaves a row, over any row: UPDATE brings whole columns, the others a merge patch. */
export function imageOver(
  operation: Exclude<SyncOperation, 'DELETE'>,
  row: EntityRow | null,
  payload: EntityRow,
): EntityRow {
  switch (operation) {
    case 'CREATE':
      return payload;
    case 'UPDATE':
      return { ...row, ...payload };
    case 'PATCH':
      return patched(row ?? {}, payload);
    default:
      return row === null ? payload : patched(row, payload);
  }
}
