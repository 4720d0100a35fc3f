import type pg from 'pg';
import { quoteIdent } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import type { SequenceRecord } from '../types/contents.ts';
import { type Definitions, existsInTarget, inSchema, integer } from './ddl.ts';
import { restoreError } from './errors.ts';
import { at } from './plan.ts';

/**
 * Sets the sequences to what was recorded, which is past every restored id; where an id of the column that owns the
 * sequence lies beyond it for whatever reason, past that.
 */
export async function setSequences(client: pg.Client, definitions: Definitions): Promise<void> {
  for (const sequence of definitions.contents.sequences) {
    if (!existsInTarget(definitions, sequence)) continue;
    try {
      await set(client, definitions, sequence);
    } catch (error) {
      throw restoreError(error, `Setting sequence ${sequence.name}`);
    }
  }
}

async function set(client: pg.Client, definitions: Definitions, sequence: SequenceRecord): Promise<void> {
  const recorded = BigInt(integer(sequence.lastValue));
  const furthest = await furthestId(client, definitions, sequence);
  const descends = sequence.increment.startsWith('-');
  const beyond = furthest !== null && (descends ? furthest < recorded : furthest > recorded);
  const within = furthest !== null && furthest <= BigInt(sequence.max) && furthest >= BigInt(sequence.min);
  const taken = furthest === recorded;
  const [value, isCalled] = beyond && within ? [furthest, true] : [recorded, sequence.isCalled || taken];
  await client.query('SELECT pg_catalog.setval($1::regclass, $2::bigint, $3::boolean)', [
    inSchema(definitions, sequence.name),
    value.toString(),
    isCalled,
  ]);
}

async function furthestId(
  client: pg.Client,
  definitions: Definitions,
  sequence: SequenceRecord,
): Promise<bigint | null> {
  if (sequence.owner === null) return null;
  const relation = at(definitions.contents.relations, sequence.owner.relation);
  const column = relation.columns.find(({ name }) => name === sequence.owner?.column);
  if (column === undefined || !['smallint', 'integer', 'bigint'].includes(column.type)) return null;
  const furthest = sequence.increment.startsWith('-') ? 'min' : 'max';
  const [row] = await selectRows<{ id: string | null }>(
    client,
    `SELECT ${furthest}(${quoteIdent(column.name)})::text AS id FROM ${inSchema(definitions, relation.name)}`,
  );
  return row?.id == null ? null : BigInt(row.id);
}
