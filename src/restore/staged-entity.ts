import { quoteIdent } from '../postgres/quote.ts';
import type { LiveEntity } from '../source/source.ts';
import type { ColumnMatch } from './live-columns.ts';
import type { LiveColumn, LiveTable } from './live-tables.ts';

/** An entity's archived rows beside the table that they are to go into. */
export interface StagedEntity {
  readonly entity: LiveEntity;
  readonly table: LiveTable;
  readonly match: ColumnMatch;
  /** Index of the entity's root in the snapshot's relations. */
  readonly root: number;
  /** Quoted name of the temporary table that holds the rows. */
  readonly stage: string;
  /** Quoted name of the temporary table of what is to be done. */
  readonly changes: string;
  /** Quoted name of the temporary table of the keys that the snapshot holds and the scope does not mean. */
  readonly spared: string;
  /** Quoted name of the temporary table of the rows that are to stand: the staged ones, unless they are merged. */
  readonly desired: string;
  /** The columns that archive and table share, in the table's order. */
  readonly columns: readonly LiveColumn[];
  /** Those of the key, in its order. */
  readonly key: readonly LiveColumn[];
  /** Equality of each of them, qualified. */
  readonly keyOperators: readonly string[];
}

/** Temporary, as the staged rows: a session that dies leaves nothing. */
export const changesName = (index: number): string => `pg_temp.${quoteIdent(`care_changes_${index}`)}`;
export const sparedName = (index: number): string => `pg_temp.${quoteIdent(`care_spared_${index}`)}`;
export const desiredName = (index: number): string => `pg_temp.${quoteIdent(`care_desired_${index}`)}`;

/** Temporary tables are created without a schema. */
export const unqualified = (name: string): string => name.slice('pg_temp.'.length);

/** Columns as a temporary table declares them. */
export const declared = (columns: readonly LiveColumn[]): string =>
  columns.map(({ sql, type, collate }) => `${sql} ${type} ${collate}`).join(', ');

/** A list of SQL expressions of one alias. */
export const columnsOf = (columns: readonly LiveColumn[], alias: string): string =>
  columns.map(({ sql }) => `${alias}.${sql}`).join(', ');

/** Equality of keys, by the operators of the index that makes them unique. */
export const sameKey = ({ key, keyOperators }: StagedEntity, a: string, b: string): string =>
  key.map(({ sql }, i) => `${a}.${sql} ${keyOperators[i]} ${b}.${sql}`).join(' AND ');

/** Image for image: also where a type has no equality, and where it takes two spellings of a value for one. */
export const differs = (columns: readonly LiveColumn[], a: string, b: string): string =>
  `ROW(${columnsOf(columns, a)})::record OPERATOR(pg_catalog.*<>) ROW(${columnsOf(columns, b)})::record`;
