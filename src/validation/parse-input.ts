import type * as z from 'zod';
import { ValidationError, type ValidationIssue } from '../types/errors.ts';
import { bounded, describeIssues } from './issues.ts';
import { plainCopy } from './plain-copy.ts';

/**
 * The input as its schema gives it, or a `ValidationError` that names all problems at once, each with path, message
 * and remedy. Fields that are undefined count as left out. `what` names the input in the message ("The backup
 * configuration"). The result shares nothing with the input. Messages never hold a value of the input; of more than a
 * hundred problems the first hundred are named. Use it at every edge: a schema's own `parse` reads a Map or a Date as an
 * object without fields, refuses undefined and gives Zod's messages.
 */
export function parseInput<T>(schema: z.ZodType<T>, what: string, input: unknown): T {
  const { value, issues: refused, lost } = plainCopy(input);
  const result = schema.safeParse(value);
  if (result.success && refused.length === 0) return result.data;
  const found = result.success ? [] : describeIssues(result.error.issues, schema, value);
  const others = found.filter((issue) => !isUnderOneOf(issue, lost));
  throw new ValidationError(what, bounded(distinct([...refused, ...others])));
}

/** What could not be copied is missing in the copy: what Zod says about that, or beneath it, is no second problem. */
function isUnderOneOf(issue: ValidationIssue, paths: readonly string[]): boolean {
  return paths.some(
    (path) =>
      path === '' ||
      issue.path === path ||
      issue.path.startsWith(`${path}.`) ||
      issue.path.startsWith(`${path}[`),
  );
}

function distinct(issues: readonly ValidationIssue[]): readonly ValidationIssue[] {
  return [...new Map(issues.map((issue) => [`${issue.path}\n${issue.message}`, issue])).values()];
}
