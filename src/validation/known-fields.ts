import * as z from 'zod';

/** The names of the fields that a schema knows at a path; those of all branches where there are several. */
export function knownFields(schema: unknown, path: readonly PropertyKey[]): readonly string[] {
  if (
    schema instanceof z.ZodExactOptional ||
    schema instanceof z.ZodOptional ||
    schema instanceof z.ZodNullable
  ) {
    return knownFields(schema.unwrap(), path);
  }
  if (schema instanceof z.ZodLazy) return knownFields(schema.unwrap(), path);
  if (schema instanceof z.ZodPipe) return knownFields(schema.in, path);
  if (schema instanceof z.ZodUnion)
    return schema.options.flatMap((option: unknown) => knownFields(option, path));
  const [head, ...rest] = path;
  if (schema instanceof z.ZodObject) {
    return head === undefined ? Object.keys(schema.shape) : knownFields(schema.shape[String(head)], rest);
  }
  return schema instanceof z.ZodArray && typeof head === 'number' ? knownFields(schema.element, rest) : [];
}
