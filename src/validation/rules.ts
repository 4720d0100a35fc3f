import type * as z from 'zod';

/** Names one problem: the path from the object that the rule belongs to, what is wrong, what to write instead. */
export type Report = (path: readonly (string | number)[], message: string, remedy: string) => void;

/**
 * A rule between fields. It sees the object also when some of its fields are malformed (all problems are named at
 * once), so it reads them through the readers below, which give undefined for what is not of the right kind.
 */
export type Rule = (value: unknown, report: Report) => void;

/** The schema with a rule that runs even where fields have failed. */
export function withRule<S extends z.ZodType>(schema: S, rule: Rule): S {
  return schema.superRefine(
    (value, context) =>
      rule(value, (path, message, remedy) =>
        context.addIssue({ code: 'custom', path: [...path], message, params: { remedy } }),
      ),
    { when: () => true },
  );
}

/** The reports of a rule, moved under a field. */
export function under(report: Report, ...prefix: (string | number)[]): Report {
  return (path, message, remedy) => report([...prefix, ...path], message, remedy);
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function fieldOf(value: unknown, name: string): unknown {
  return isRecord(value) && Object.hasOwn(value, name) ? value[name] : undefined;
}

/** Whether the field is there; null counts as absent, since stored records hold null for what was left out. */
export function has(value: unknown, name: string): boolean {
  return (fieldOf(value, name) ?? undefined) !== undefined;
}

export function textOf(value: unknown, name: string): string | undefined {
  const field = fieldOf(value, name);
  return typeof field === 'string' ? field : undefined;
}

export function numberOf(value: unknown, name: string): number | undefined {
  const field = fieldOf(value, name);
  return typeof field === 'number' ? field : undefined;
}

export function flagOf(value: unknown, name: string): boolean | undefined {
  const field = fieldOf(value, name);
  return typeof field === 'boolean' ? field : undefined;
}

export function listOf(value: unknown, name: string): readonly unknown[] {
  const field = fieldOf(value, name);
  return Array.isArray(field) ? field : [];
}

export function textsOf(value: unknown, name: string): readonly string[] {
  return listOf(value, name).filter((item) => typeof item === 'string');
}
