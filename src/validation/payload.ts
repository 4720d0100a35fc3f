import type { ValidationIssue } from '../types/errors.ts';
import type { EntityRow } from '../types/offline-sync.ts';
import { type Path, showPath } from './path.ts';

/** Levels of nesting. */
const MAX_DEPTH = 20;
const MAX_VALUES = 10_000;
/** Of JSON text in UTF-8, counted while it is walked. */
const MAX_BYTES = 256 * 1024;
const MAX_ISSUES = 20;
const REFUSED_NAMES = new Set(['__proto__', 'constructor', 'prototype']);

export type CheckedPayload =
  | { readonly payload: EntityRow; readonly bytes: number }
  | { readonly issues: readonly ValidationIssue[] };

/**
 * An own copy of a JSON object that comes from a device, exactly as it will be stored: text that PostgreSQL or JSON
 * would change, numbers that JavaScript has changed already, and what is no JSON is refused. Paths begin with `at`.
 * Never throws, whatever comes in.
 */
export function checkPayload(input: unknown, at: string): CheckedPayload {
  const walk = new Walk();
  try {
    const payload = walk.copy(input, [{ key: at, index: 0 }]);
    if (walk.issues.length === 0 && isRow(payload)) return { payload, bytes: walk.bytes };
    if (walk.issues.length === 0)
      walk.refuse([{ key: at, index: 0 }], 'Must be an object.', 'Give an object.');
  } catch {
    walk.refuse([{ key: at, index: 0 }], 'Cannot be read: reading it throws.', 'Give a plain object.');
  }
  return { issues: walk.issues };
}

const isRow = (value: unknown): value is EntityRow =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** All that JSON writes as more than one character. */
const ESCAPED = /["\\\p{Cc}]/u;

/** How many bytes a text takes in JSON. */
function jsonBytes(text: string): number {
  return ESCAPED.test(text) ? Buffer.byteLength(JSON.stringify(text)) : Buffer.byteLength(text) + 2;
}

class Walk {
  readonly issues: ValidationIssue[] = [];
  bytes = 0;
  #values = 0;
  readonly #holders = new Set<object>();

  copy(value: unknown, path: Path): unknown {
    this.#values += 1;
    if (this.#values > MAX_VALUES) return this.#once(path, `Holds more than ${MAX_VALUES} values.`);
    if (this.bytes > MAX_BYTES) return this.#once(path, `Is larger than ${MAX_BYTES} bytes.`);
    switch (typeof value) {
      case 'string':
        return this.#text(value, path);
      case 'number':
        return this.#number(value, path);
      case 'boolean':
        this.bytes += 5;
        return value;
      case 'object':
        if (value !== null) return this.#object(value, path);
        this.bytes += 4;
        return null;
      default:
        return this.refuse(
          path,
          'Is no JSON value.',
          'Use text, numbers, true, false, null, arrays and objects.',
        );
    }
  }

  refuse(path: Path, message: string, remedy: string): undefined {
    if (this.issues.length < MAX_ISSUES) this.issues.push({ path: showPath(path), message, remedy });
    return undefined;
  }

  /** A limit is said once, for the whole. */
  #once(path: Path, message: string): undefined {
    if (this.issues.some((issue) => issue.message === message)) return undefined;
    return this.refuse(path.slice(0, 1), message, 'Keep large data elsewhere and refer to it.');
  }

  #text(value: string, path: Path): unknown {
    this.bytes += jsonBytes(value);
    if (value.isWellFormed() && !value.includes('\0')) return value;
    return this.refuse(
      path,
      'Holds a NUL character or half of a surrogate pair.',
      'Remove the characters that are no text.',
    );
  }

  #number(value: number, path: Path): unknown {
    this.bytes += String(value).length;
    if (!Number.isFinite(value)) return this.refuse(path, 'Is not a finite number.', 'Send null or text.');
    if (Number.isInteger(value) && !Number.isSafeInteger(value)) {
      return this.refuse(path, 'Is a number that JSON does not carry exactly.', 'Send it as text.');
    }
    return value === 0 ? 0 : value;
  }

  #object(value: object, path: Path): unknown {
    if (path.length > MAX_DEPTH)
      return this.refuse(path, `Is nested deeper than ${MAX_DEPTH} levels.`, 'Flatten it.');
    if (this.#holders.has(value))
      return this.refuse(path, 'Refers back to an object that holds it.', 'Remove the cycle.');
    this.#holders.add(value);
    this.bytes += 2;
    const copied = Array.isArray(value) ? this.#array(value, path) : this.#fields(value, path);
    this.#holders.delete(value);
    return copied;
  }

  #array(value: readonly unknown[], path: Path): unknown {
    const copied: unknown[] = [];
    for (let i = 0; i < value.length && this.#values <= MAX_VALUES; i += 1) {
      this.bytes += 1;
      const item = value[i];
      copied.push(item === undefined ? null : this.copy(item, [...path, i]));
    }
    if (value.length > MAX_VALUES) this.#once(path, `Holds more than ${MAX_VALUES} values.`);
    return copied;
  }

  #fields(value: object, path: Path): unknown {
    const prototype: unknown = Object.getPrototypeOf(value);
    if (prototype !== Object.prototype && prototype !== null) {
      return this.refuse(
        path,
        'Is neither a plain object nor an array.',
        'Write JSON; a date as ISO 8601 text.',
      );
    }
    const copied: Record<string, unknown> = {};
    let index = -1;
    for (const key of Object.keys(value)) {
      index += 1;
      const item: unknown = Reflect.get(value, key);
      if (item === undefined) continue;
      const here = [...path, { key, index }];
      if (REFUSED_NAMES.has(key)) {
        this.refuse(here, 'Has a name that JavaScript gives a meaning to.', 'Choose another name.');
      } else if (key.length > 200 || !key.isWellFormed() || key.includes('\0')) {
        this.refuse(here, 'Has a name that cannot be stored.', 'Write a name of 1 to 200 characters.');
      } else {
        this.bytes += jsonBytes(key) + 2;
        copied[key] = this.copy(item, here);
      }
      if (this.#values > MAX_VALUES) break;
    }
    return copied;
  }
}
