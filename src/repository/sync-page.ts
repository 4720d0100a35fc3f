import type { Page } from '../types/backup.ts';
import { ValidationError } from '../types/errors.ts';
import { isUuid } from '../utils/uuid.ts';
import type { RawRow } from './database.ts';
import { type Parameters, parameters } from './row-mapping.ts';
import type { BoundScope } from './scope.ts';

const DEFAULT_LIMIT = 50;

/** What an actor limited to branches sees of rows that say their branch: those, and what he handed in himself. */
export interface AuthorScope extends BoundScope {
  readonly authorId: string | null;
}

/** Parameters that begin with what `visibleTo` names: $1 the organization, $2 the branches, $3 the author. */
export function authored(scope: AuthorScope): Parameters {
  return parameters(scope.organizationId, scope.branchIds, scope.authorId);
}

/** Whether the row under `alias` is visible. */
export function visibleTo(alias: string): string {
  return `${alias}.organization_id = $1::uuid AND ($2::uuid[] IS NULL OR ${alias}.branch_id = ANY ($2::uuid[]) OR ${alias}.user_id = $3::uuid)`;
}

/** One page of a table that is listed newest first by its UUIDv7. The cursor is the last id of the page before. */
export async function pageById<T extends { readonly id: string }>(
  scope: AuthorScope,
  input: { readonly limit?: number; readonly cursor?: string },
  query: {
    readonly table: string;
    readonly select: string;
    /** Conditions on alias `t`; they add their parameters. */
    readonly where: (into: Parameters) => readonly string[];
    readonly decode: (row: RawRow) => T;
  },
): Promise<Page<T>> {
  const limit = input.limit ?? DEFAULT_LIMIT;
  if (input.cursor !== undefined && !isUuid(input.cursor)) {
    throw new ValidationError('The paging of a list', [
      {
        path: 'cursor',
        message: 'Is not a cursor of this list.',
        remedy: 'Give the `nextCursor` of the page before, unchanged.',
      },
    ]);
  }
  const into = authored(scope);
  const conditions = [visibleTo('t'), ...query.where(into)];
  if (input.cursor !== undefined) conditions.push(`t.id < ${into.add(input.cursor, 'uuid')}`);
  const rows = await scope.db.query(
    `SELECT ${query.select} FROM ${scope.db.table(query.table)} t WHERE ${conditions.join(' AND ')}
      ORDER BY t.id DESC LIMIT ${into.add(limit + 1, 'bigint')}`,
    into.values,
  );
  const items = rows.slice(0, limit).map(query.decode);
  return { items, nextCursor: rows.length > limit ? (items.at(-1)?.id ?? null) : null };
}

/** Conditions for the filters that are given; a list stands for any of its values. */
export function filters(
  into: Parameters,
  given: Readonly<Record<string, string | readonly string[] | undefined>>,
): readonly string[] {
  return Object.entries(given).flatMap(([column, value]) => {
    if (value === undefined) return [];
    if (typeof value === 'string') return [`t.${column}::text = ${into.add(value, 'text')}`];
    return [`t.${column} = ANY (${into.add(value, 'text[]')})`];
  });
}
