import * as z from 'zod';
import type { Json } from '../types/ids.ts';
import { CREDENTIAL_REMEDY, holdsCredential, isCredentialName } from './credentials.ts';
import { isStorable } from './fields.ts';
import { isRecord, type Report } from './rules.ts';

const JSON_REMEDY = 'Use text, finite numbers, true, false, null, arrays and objects.';
const MAX_DEPTH = 8;
const MAX_TEXT = 10_000;
const MAX_VALUES = 1000;
const REFUSED_NAMES = new Set(['__proto__', 'constructor', 'prototype']);

type JsonObject = { readonly [key: string]: Json };

/** Any JSON value, as it was stored. */
export const JsonSchema = z.custom<Json>(isJson, {
  error: 'Is not a JSON value.',
  params: { remedy: JSON_REMEDY },
});

/** A JSON object, as it was stored. */
export const JsonObjectSchema = z.custom<JsonObject>((value) => isRecord(value) && isJson(value), {
  error: 'Is not a JSON object.',
  params: { remedy: 'Write an object of JSON values.' },
});

/** The host's own fields: JSON of bounded depth and size, without credentials. */
export const CustomFieldsSchema = z
  .custom<JsonObject>(isRecord, {
    error: 'Must be an object.',
    params: { remedy: 'Write an object of JSON values, such as { "costCenter": "A1" }.' },
    abort: true,
  })
  .superRefine((value, context) => {
    const seen = { values: 0 };
    check(value, [], seen, (path, message, remedy) =>
      context.addIssue({ code: 'custom', path: [...path], message, params: { remedy } }),
    );
    if (seen.values > MAX_VALUES) {
      context.addIssue({
        code: 'custom',
        message: `Holds more than ${MAX_VALUES} values.`,
        params: { remedy: 'Keep large data elsewhere and refer to it.' },
      });
    }
  });

function isJson(value: unknown): value is Json {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return true;
  if (typeof value === 'number') return Number.isFinite(value);
  if (Array.isArray(value)) return value.every(isJson);
  return isPlainObject(value) && Object.values(value).every(isJson);
}

function isPlainObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return isRecord(value) && Object.prototype.toString.call(value) === '[object Object]';
}

function check(
  value: unknown,
  path: readonly (string | number)[],
  seen: { values: number },
  report: Report,
): void {
  seen.values += 1;
  if (seen.values > MAX_VALUES) return;
  if (typeof value === 'string') checkText(value, path, report);
  else if (typeof value !== 'object' || value === null) checkScalar(value, path, report);
  else if (path.length >= MAX_DEPTH) {
    report(path, `Is nested deeper than ${MAX_DEPTH} levels.`, 'Flatten it.');
  } else if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) check(item, [...path, index], seen, report);
  } else if (isPlainObject(value)) {
    for (const [name, item] of Object.entries(value)) {
      checkName(name, [...path, name], report);
      check(item, [...path, name], seen, report);
    }
  } else {
    report(path, 'Is not a plain object.', 'Write JSON; a date as ISO 8601 text.');
  }
}

function checkScalar(value: unknown, path: readonly (string | number)[], report: Report): void {
  if (!isJson(value)) report(path, 'Is not a JSON value.', JSON_REMEDY);
}

function checkText(value: string, path: readonly (string | number)[], report: Report): void {
  if (value.length > MAX_TEXT) report(path, `Is longer than ${MAX_TEXT} characters.`, 'Shorten it.');
  if (!isStorable(value)) {
    report(
      path,
      'Holds a NUL character or half of a surrogate pair.',
      'Remove the characters that are no text.',
    );
  }
  if (holdsCredential(value)) report(path, 'Looks like a credential.', CREDENTIAL_REMEDY);
}

function checkName(name: string, path: readonly (string | number)[], report: Report): void {
  if (REFUSED_NAMES.has(name))
    report(path, 'Has a name that JavaScript gives a meaning to.', 'Choose another name.');
  if (name === '' || name.length > 128 || !isStorable(name)) {
    report(path, 'Has a name that cannot be stored.', 'Write a name of 1 to 128 characters.');
  }
  if (isCredentialName(name)) report(path, 'Has a name that is for a credential.', CREDENTIAL_REMEDY);
}
