import { canonicalDecimal } from '../sync/decimals.ts';
import { isObject } from '../sync/json-object.ts';
import type { Json } from '../types/ids.ts';

/**
 * In documents `{ "$exact": "12345678901234567890" }` is a number that JavaScript does not hold, so that the members
 * around it are merged as ever. An object that would be taken for one stands behind the same mark, as its text.
 */
const EXACT = '$exact';

/** A document of its text. */
export function documentOf(text: string): Json {
  return JSON.parse(text, ((_key, value: Json, context?: { readonly source?: string }) => {
    if (typeof value === 'number' && context?.source !== undefined)
      return isHeld(value, context.source) ? value : { [EXACT]: context.source };
    return markedText(value) === undefined ? value : { [EXACT]: JSON.stringify(value) };
  }) as (this: unknown, key: string, value: unknown) => unknown) as Json;
}

const isHeld = (value: number, source: string): boolean =>
  String(value) === source || canonicalDecimal(String(value)) === canonicalDecimal(source);

/** JSON in which what stands behind a mark is itself again, to the last digit of its numbers. */
export function jsonOf(value: unknown): string {
  const texts: string[] = [];
  const json = JSON.stringify(value, (_name, part: unknown) => {
    const text = exactText(part);
    if (text === undefined) return part;
    texts.push(text);
    return PLACE;
  });
  return texts.length === 0 ? json : json.replaceAll(JSON.stringify(PLACE), () => texts.shift() ?? 'null');
}

/** A text that no payload and no row holds: NUL is refused in both. */
const PLACE = '\0exact';

const NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:e[+-]?\d+)?$/i;

function exactText(value: unknown): string | undefined {
  const text = markedText(value);
  if (text === undefined) return undefined;
  return NUMBER.test(text) || isMarkedText(text) ? text : undefined;
}

/** The text behind a mark. */
function markedText(value: unknown): string | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const [name, ...others] = Object.keys(value);
  const text: unknown = name === EXACT && others.length === 0 ? Reflect.get(value, EXACT) : undefined;
  return typeof text === 'string' ? text : undefined;
}

function isMarkedText(text: string): boolean {
  if (!text.startsWith('{')) return false;
  try {
    const value = JSON.parse(text) as Json;
    return isObject(value) && markedText(value) !== undefined;
  } catch {
    return false;
  }
}
