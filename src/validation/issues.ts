import type * as z from 'zod';
import type { ValidationIssue } from '../types/errors.ts';
import { nearest } from '../utils/nearest.ts';
import { CREDENTIAL_REMEDY, isCredentialName } from './credentials.ts';
import { knownFields } from './known-fields.ts';
import { type Locate, locator, showPath, valueAt } from './path.ts';

interface Parsed {
  readonly schema: z.ZodType;
  readonly root: unknown;
  readonly locate: Locate;
}

const KINDS: Readonly<Record<string, string>> = {
  string: 'text',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'an array',
  object: 'an object',
  record: 'an object',
};

/** More problems than anybody reads; a list of ids that are all malformed must not fill a log. */
const MAX_SHOWN = 100;
const MORE: ValidationIssue = {
  path: '',
  message: 'Has further problems.',
  remedy: 'Correct those named first.',
};

/**
 * What Zod found, as the library says it: path, message and remedy, without any value of the input. Where there are
 * very many it gives some more than `bounded` shows.
 */
export function describeIssues(
  issues: readonly z.core.$ZodIssue[],
  schema: z.ZodType,
  root: unknown,
): readonly ValidationIssue[] {
  const parsed: Parsed = { schema, root, locate: locator(root) };
  return issues.slice(0, MAX_SHOWN + 1).flatMap((issue) => describe(issue, issue.path, parsed));
}

/** The first hundred problems, and whether there are more. */
export function bounded(issues: readonly ValidationIssue[]): readonly ValidationIssue[] {
  return issues.length > MAX_SHOWN ? [...issues.slice(0, MAX_SHOWN), MORE] : issues;
}

function describe(
  issue: z.core.$ZodIssue,
  keys: readonly PropertyKey[],
  parsed: Parsed,
): readonly ValidationIssue[] {
  const path = showPath(parsed.locate(keys));
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.slice(0, MAX_SHOWN + 1).map((key) => unknownField(key, keys, parsed));
  }
  if (issue.code === 'invalid_union') return describeUnion(issue, keys, parsed);
  if (issue.code === 'invalid_key' || issue.code === 'invalid_element') {
    return issue.issues.flatMap((inner) => describe(inner, keys, parsed));
  }
  if (issue.code === 'custom') return [{ path, message: issue.message, remedy: remedyOf(issue.params) }];
  const remedy = builtInRemedy(issue, valueAt(keys, parsed.root));
  const missing = keys.length > 0 && valueAt(keys, parsed.root) === undefined;
  return [{ path, message: missing ? 'Is missing.' : builtInMessage(issue), remedy }];
}

/** The problems of the branch that the value was meant for; where none can be told, that none fits. */
function describeUnion(
  issue: z.core.$ZodIssueInvalidUnion,
  keys: readonly PropertyKey[],
  parsed: Parsed,
): readonly ValidationIssue[] {
  const meant = issue.errors.filter(
    (branch) => !branch.some((inner) => inner.path.length === 0 && isWrongKind(inner)),
  );
  const [branch] = meant;
  if (branch !== undefined && meant.length === 1) {
    return branch
      .slice(0, MAX_SHOWN + 1)
      .flatMap((inner) => describe(inner, [...keys, ...inner.path], parsed));
  }
  const kinds = issue.errors.flatMap((inner) => inner.flatMap(kindOf));
  const remedy =
    kinds.length > 0 ? `Give ${[...new Set(kinds)].join(' or ')}.` : 'Use one of the documented forms.';
  const missing = keys.length > 0 && valueAt(keys, parsed.root) === undefined;
  const message = missing ? 'Is missing.' : 'Has none of the forms that are allowed here.';
  return [{ path: showPath(parsed.locate(keys)), message, remedy }];
}

function isWrongKind(issue: z.core.$ZodIssue): boolean {
  return issue.code === 'invalid_type' || issue.code === 'invalid_value';
}

function kindOf(issue: z.core.$ZodIssue): readonly string[] {
  if (issue.path.length > 0 || issue.code !== 'invalid_type') return [];
  return [KINDS[issue.expected] ?? issue.expected];
}

function unknownField(key: string, keys: readonly PropertyKey[], parsed: Parsed): ValidationIssue {
  const path = showPath(parsed.locate([...keys, key]));
  if (isCredentialName(key))
    return { path, message: 'Is a field for a credential.', remedy: CREDENTIAL_REMEDY };
  const known = knownFields(parsed.schema, keys);
  const meant = nearest(key, known);
  if (meant !== undefined)
    return { path, message: 'Is not a field here.', remedy: `Did you mean \`${meant}\`?` };
  const remedy = known.length > 0 ? `Remove it; the fields here are ${known.join(', ')}.` : 'Remove it.';
  return { path, message: 'Is not a field here.', remedy };
}

function remedyOf(params: Readonly<Record<string, unknown>> | undefined): string {
  return typeof params?.remedy === 'string' ? params.remedy : 'See the documentation of this field.';
}

function builtInMessage(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return issue.expected === 'int'
        ? 'Must be a whole number.'
        : `Must be ${KINDS[issue.expected] ?? issue.expected}.`;
    case 'too_small':
      return issue.origin === 'number' || issue.origin === 'int' ? 'Is too small.' : 'Is too short.';
    case 'too_big':
      return issue.origin === 'number' || issue.origin === 'int' ? 'Is too large.' : 'Is too long.';
    case 'invalid_value':
      return 'Is none of the values that are allowed here.';
    default:
      return 'Has not the form that is needed here.';
  }
}

function builtInRemedy(issue: z.core.$ZodIssue, value: unknown): string {
  switch (issue.code) {
    case 'invalid_type':
      return `Give ${KINDS[issue.expected] ?? issue.expected}.`;
    case 'too_small':
      return `Give ${amount('at least', issue.minimum, issue.origin)}.`;
    case 'too_big':
      return `Give ${amount('at most', issue.maximum, issue.origin)}.`;
    case 'invalid_value':
      return allowedValues(issue.values.map(String), value);
    case 'invalid_format':
      return issue.format === 'email'
        ? 'Write an address such as ops@example.com.'
        : 'See the documentation of this field.';
    default:
      return 'See the documentation of this field.';
  }
}

function amount(bound: string, limit: number | bigint, origin: string): string {
  const unit = origin === 'string' ? ' characters' : origin === 'array' ? ' items' : '';
  return `${bound} ${limit}${unit}`;
}

function allowedValues(values: readonly string[], value: unknown): string {
  const meant = typeof value === 'string' ? nearest(value, values) : undefined;
  const all = `Write one of ${values.join(', ')}.`;
  return meant === undefined ? all : `Did you mean \`${meant}\`? ${all}`;
}
