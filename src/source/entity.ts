import type { Classification, EntityDefinition, EntityInput } from '../types/entity.ts';
import { EntityInputSchema, parseInput } from '../validation/index.ts';

/**
 * Registers an entity of the host. Columns and key that are left out are found by name and by reading the catalog
 * when the library starts; what is named and missing is then `ENTITY_INVALID`. Throws `VALIDATION_FAILED`.
 *
 * @example
 * defineEntity({ type: 'VISIT', table: 'visits', classification: { phi: true } })
 * defineEntity({ type: 'TASK', table: 'tasks', organization: { through: 'care_plan_id', entity: 'CARE_PLAN' } })
 */
export function defineEntity(input: EntityInput): EntityDefinition {
  const parsed = parseInput(EntityInputSchema, 'Entity', input);
  return { ...parsed, schema: parsed.schema ?? 'public' };
}

/** Whether an entity holds a kind of protected data in the row as a whole or in any column. */
export function holds(entity: EntityDefinition, kind: keyof Classification): boolean {
  const { classification } = entity;
  if (classification === undefined) return false;
  return (
    classification[kind] === true ||
    Object.values(classification.columns ?? {}).some((column) => column[kind] === true)
  );
}
