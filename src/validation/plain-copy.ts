import type { ValidationIssue } from '../types/errors.ts';
import { type Path, showPath } from './path.ts';

/** Levels of nesting; the deepest documented input has nine. */
const MAX_DEPTH = 40;
/** Values in one input: room for two lists of 100 000 ids. */
const MAX_VALUES = 250_000;
const REFUSED_NAMES = new Set(['__proto__', 'constructor', 'prototype']);

export interface PlainCopy {
  readonly value: unknown;
  readonly issues: readonly ValidationIssue[];
  /** Paths of what was left out. */
  readonly lost: readonly string[];
}

/**
 * An own copy of plain objects and arrays, with dates as ISO 8601 text, whatever comes in: every property is read once, so what was checked
 * is what is used. Properties that are undefined are left out. What cannot be copied (a cycle, a getter that throws,
 * a Map, a hostile Proxy) is left out and named. Never throws.
 */
export function plainCopy(input: unknown): PlainCopy {
  const issues: ValidationIssue[] = [];
  const lost: string[] = [];
  const ancestors = new Set<object>();
  let values = 0;

  function complain(path: Path, message: string, remedy: string): void {
    issues.push({ path: showPath(path), message, remedy });
  }

  function refuse(path: Path, message: string, remedy: string): undefined {
    complain(path, message, remedy);
    lost.push(showPath(path));
    return undefined;
  }

  function copy(value: unknown, path: Path): unknown {
    values += 1;
    if (typeof value !== 'object' || value === null) return value;
    if (values > MAX_VALUES) return undefined;
    if (ancestors.has(value))
      return refuse(path, 'Refers back to an object that holds it.', 'Remove the cycle.');
    if (path.length >= MAX_DEPTH)
      return refuse(path, `Is nested deeper than ${MAX_DEPTH} levels.`, 'Flatten it.');
    ancestors.add(value);
    try {
      return copyObject(value, path);
    } catch {
      return refuse(path, 'Cannot be read: reading it throws.', 'Give a plain object.');
    } finally {
      ancestors.delete(value);
    }
  }

  function copyObject(value: object, path: Path): unknown {
    const kind = Object.prototype.toString.call(value);
    if (Array.isArray(value)) return copyArray(value, path);
    // As JSON does. Zod takes a Date for an object, and would read it as one without fields.
    if (kind === '[object Date]') return copyDate(value, path);
    if (kind === '[object Object]') return copyProperties(value, path);
    return refuse(path, 'Is neither a plain object nor an array.', 'Give a plain object.');
  }

  function copyDate(value: object, path: Path): unknown {
    const time = Date.prototype.getTime.call(value);
    if (Number.isNaN(time))
      return refuse(path, 'Is an invalid Date.', 'Give a Date that is a point in time.');
    return new Date(time).toISOString();
  }

  function copyArray(value: readonly unknown[], path: Path): unknown {
    if (values + value.length > MAX_VALUES) {
      values += value.length;
      return [];
    }
    return Array.from({ length: value.length }, (_, index) => copyProperty(value, index, [...path, index]));
  }

  function copyProperties(value: object, path: Path): unknown {
    const result: Record<string, unknown> = {};
    const keys = Reflect.ownKeys(value).filter((key) =>
      Object.prototype.propertyIsEnumerable.call(value, key),
    );
    for (const [index, key] of keys.entries()) {
      if (values > MAX_VALUES) break;
      if (typeof key === 'symbol') {
        complain(path, 'Holds a field whose name is a symbol.', 'Use names that are text.');
      } else if (REFUSED_NAMES.has(key)) {
        complain(
          path,
          `Holds a field with a name that JavaScript gives a meaning to (field ${index + 1}).`,
          'Choose another name.',
        );
      } else {
        const item = copyProperty(value, key, [...path, { key, index }]);
        if (item !== undefined) result[key] = item;
      }
    }
    return result;
  }

  function copyProperty(holder: object, key: string | number, path: Path): unknown {
    let item: unknown;
    try {
      item = Reflect.get(holder, key);
    } catch {
      return refuse(path, 'Cannot be read: reading it throws.', 'Give a plain value.');
    }
    return copy(item, path);
  }

  const value = copy(input, []);
  if (values > MAX_VALUES)
    refuse([], `Holds more than ${MAX_VALUES} values.`, 'Split it into several calls.');
  return { value, issues, lost };
}
