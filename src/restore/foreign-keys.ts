import type pg from 'pg';
import { sqlState } from '../postgres/errors.ts';
import { quoteIdent } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import type { BackupWarning } from '../types/backup.ts';
import type { ConstraintRecord, RelationRecord } from '../types/contents.ts';
import { ArchiveError } from '../types/errors.ts';
import { type Definitions, inSchema, notValid } from './ddl.ts';
import { restoreError } from './errors.ts';
import { at, type RestorePlan } from './plan.ts';
import type { Job, WorkSessions } from './sessions.ts';

export interface ForeignKeysResult {
  readonly validated: number;
  /** Recorded as NOT VALID, or made so because rows that they refer to were filtered out. */
  readonly notValid: number;
  readonly warnings: readonly BackupWarning[];
}

interface ForeignKey {
  readonly relation: number;
  readonly constraint: ConstraintRecord;
  readonly references: number;
}

/**
 * Creates the foreign keys and checks them. All are declared first, NOT VALID and one after the other, so that cycles
 * need no order and no two sessions wait for each other's tables; then they are checked side by side. One whose
 * referenced rows a filter may have left out stays NOT VALID where there are orphans, with a warning; any other
 * violation is `RESTORE_VALIDATION_FAILED`. Keys to tables that the snapshot does not hold are left out with a warning.
 */
export async function addForeignKeys(
  sessions: WorkSessions,
  definitions: Definitions,
  plan: RestorePlan,
): Promise<ForeignKeysResult> {
  const { contents } = definitions;
  const warnings: BackupWarning[] = [];
  const outcome = { validated: 0, notValid: 0 };
  const toCheck = new Map<number, ForeignKey[]>();
  const mayLackRows = (key: ForeignKey): boolean =>
    [key.relation, key.references].some((index) => {
      const entity = at(plan.entities, index);
      return entity !== null && at(contents.entities, entity).filtered;
    });

  const leaveOpen = async (client: pg.Client, key: ForeignKey, cause: unknown): Promise<void> => {
    if (sqlState(cause) !== '23503' || !mayLackRows(key))
      throw restoreError(cause, checking(definitions, key));
    const orphans = await countOrphans(client, definitions, key).catch((error: unknown) => {
      throw restoreError(error, checking(definitions, key));
    });
    outcome.notValid += 1;
    const { name } = at(contents.relations, key.relation);
    warnings.push({
      code: 'FOREIGN_KEY_NOT_VALID',
      message:
        `Foreign key ${key.constraint.name} of ${name} is NOT VALID: ${orphans} rows refer to rows of ` +
        `${at(contents.relations, key.references).name} that are not in the snapshot`,
    });
  };

  for (const key of foreignKeys(definitions, warnings)) {
    const partitioned = [key.relation, key.references].some(
      (index) => at(contents.relations, index).kind === 'PARTITIONED',
    );
    if (notValid(key.constraint.definition) === key.constraint.definition) {
      await declare(sessions.first, definitions, key, key.relation);
      outcome.notValid += 1;
    } else if (partitioned) {
      // Cannot be declared NOT VALID before PostgreSQL 18.
      try {
        await sessions.first.query(addSql(definitions, key, key.relation, key.constraint.definition));
        outcome.validated += 1;
      } catch (error) {
        if (sqlState(error) === '23503' && mayLackRows(key)) {
          for (const leaf of leavesOf(plan, key.relation, contents.relations)) {
            await declare(sessions.first, definitions, key, leaf);
          }
        }
        await leaveOpen(sessions.first, key, error);
      }
    } else {
      await declare(sessions.first, definitions, key, key.relation);
      toCheck.set(key.relation, [...(toCheck.get(key.relation) ?? []), key]);
    }
  }

  await sessions.run(
    [...toCheck.values()].map(
      (keys): Job => ({
        run: async (client) => {
          for (const key of keys) {
            const table = inSchema(definitions, at(contents.relations, key.relation).name);
            try {
              await client.query(
                `ALTER TABLE ${table} VALIDATE CONSTRAINT ${quoteIdent(key.constraint.name)}`,
              );
              outcome.validated += 1;
            } catch (error) {
              await leaveOpen(client, key, error);
            }
          }
        },
      }),
    ),
  );
  return { ...outcome, warnings };
}

function foreignKeys({ contents }: Definitions, warnings: BackupWarning[]): ForeignKey[] {
  return contents.relations.flatMap((relation, index) =>
    relation.constraints.flatMap((constraint) => {
      if (constraint.kind !== 'FOREIGN_KEY' || constraint.inherited) return [];
      if (constraint.references !== null) {
        return [{ relation: index, constraint, references: constraint.references }];
      }
      const { schema, name } = constraint.referencedTable ?? { schema: '?', name: '?' };
      const message = `Foreign key ${constraint.name} of ${relation.name} is left out: ${schema}.${name} is not in the snapshot`;
      warnings.push({ code: 'FOREIGN_KEY_LEFT_OUT', message });
      return [];
    }),
  );
}

const checking = ({ contents }: Definitions, key: ForeignKey): string =>
  `Checking foreign key ${key.constraint.name} of ${at(contents.relations, key.relation).name}`;

async function declare(
  client: pg.Client,
  definitions: Definitions,
  key: ForeignKey,
  relation: number,
): Promise<void> {
  await client
    .query(addSql(definitions, key, relation, notValid(key.constraint.definition)))
    .catch((error: unknown) => {
      throw restoreError(error, checking(definitions, key));
    });
}

function addSql(definitions: Definitions, key: ForeignKey, relation: number, definition: string): string {
  const { relations } = definitions.contents;
  const referenced = inSchema(definitions, at(relations, key.references).name);
  return (
    `ALTER TABLE ${inSchema(definitions, at(relations, relation).name)} ` +
    `ADD CONSTRAINT ${quoteIdent(key.constraint.name)} ${referringTo(definition, referenced)}`
  );
}

const IDENTIFIER = '(?:"(?:[^"]|"")+"|[^\\s".(),]+)';
const REFERENCES = new RegExp(
  `^(FOREIGN KEY \\((?:PERIOD |${IDENTIFIER}|[, ])+\\) REFERENCES )(?:${IDENTIFIER}\\.)?${IDENTIFIER}(?=\\()`,
);

/** The definition with the referenced table replaced: never by chance one of the same name elsewhere. */
export function referringTo(definition: string, table: string): string {
  if (!REFERENCES.test(definition)) {
    throw new ArchiveError('The manifest has a foreign key that refers to nothing', 'ARCHIVE_CORRUPT');
  }
  return definition.replace(REFERENCES, (_, before: string) => before + table);
}

function leavesOf(plan: RestorePlan, index: number, relations: readonly RelationRecord[]): number[] {
  const below = (leaf: number): boolean => {
    for (let up: number | null = leaf; up !== null; up = at(relations, up).parent)
      if (up === index) return true;
    return false;
  };
  return plan.leaves.filter(below);
}

/** Rows whose referenced row is missing, by the equality operators of the constraint itself. */
async function countOrphans(client: pg.Client, definitions: Definitions, key: ForeignKey): Promise<string> {
  const parts = await selectRows<{ from: string; to: string; column: string; match: string; full: boolean }>(
    client,
    `SELECT k.conrelid::regclass::text AS from, k.confrelid::regclass::text AS to, quote_ident(a.attname) AS column,
            'p.' || quote_ident(b.attname) || ' OPERATOR(' || quote_ident(n.nspname) || '.' || o.oprname || ') f.' || quote_ident(a.attname) AS match,
            k.confmatchtype = 'f' AS full
       FROM pg_catalog.pg_constraint k
       CROSS JOIN LATERAL unnest(k.conkey, k.confkey, k.conpfeqop) AS c(own, other, operator)
       JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.own
       JOIN pg_catalog.pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = c.other
       JOIN pg_catalog.pg_operator o ON o.oid = c.operator
       JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
       JOIN pg_catalog.pg_class r ON r.oid = k.conrelid
      WHERE k.conname = $1 AND k.contype = 'f' AND k.conparentid = 0 AND NOT k.convalidated
        AND k.connamespace = $2::regnamespace`,
    [key.constraint.name, quoteIdent(definitions.schema)],
  );
  const tables = Map.groupBy(parts, (part) => part.from);
  let orphans = 0n;
  for (const [from, columns] of tables) {
    const [first] = columns;
    if (first === undefined) continue;
    const given = columns.map((part) => `f.${part.column} IS NOT NULL`);
    const matched = `EXISTS (SELECT FROM ${first.to} p WHERE ${columns.map((part) => part.match).join(' AND ')})`;
    const orphan = `(${given.join(' AND ')} AND NOT ${matched})`;
    // MATCH FULL allows all columns to be NULL, or none.
    const half = first.full ? ` OR ((${given.join(' OR ')}) AND NOT (${given.join(' AND ')}))` : '';
    const [row] = await selectRows<{ orphans: string }>(
      client,
      `SELECT count(*)::text AS orphans FROM ONLY ${from} f WHERE ${orphan}${half}`,
    );
    orphans += BigInt(row?.orphans ?? 0);
  }
  return orphans.toString();
}
