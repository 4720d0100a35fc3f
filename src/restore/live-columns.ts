import type { ColumnMapping } from '../types/backup.ts';
import type { RelationRecord } from '../types/contents.ts';
import type { LiveColumn, LiveTable } from './live-tables.ts';

/** How an archived column goes into the live table. */
export interface StagedColumn {
  readonly archived: string;
  /** null: it is left out, as the caller has said. */
  readonly live: LiveColumn | null;
  /** Of another type now: its text is turned into the live type's where that loses nothing. */
  readonly retyped: boolean;
}

export interface ColumnMatch {
  readonly staged: readonly StagedColumn[];
  /** Live columns that the archive does not hold: they keep their values, and new rows take their defaults. */
  readonly added: readonly LiveColumn[];
  /** What stands in the way, each naming column and remedy. */
  readonly problems: readonly string[];
}

/**
 * Matches columns by name. A column that is no more is never dropped in silence, and never taken for one that is new: the
 * caller says in `columnMapping` what became of it. Pure.
 */
export function matchColumns(
  relation: RelationRecord,
  table: LiveTable,
  key: readonly string[],
  mapping: ColumnMapping[string] = {},
): ColumnMatch {
  const problems: string[] = [];
  const stored = relation.columns.filter((column) => column.generated === null);
  for (const name of Object.keys(mapping)) {
    if (!stored.some((column) => column.name === name)) {
      problems.push(`\`columnMapping\` names ${name}, which the snapshot does not hold`);
    }
  }
  const taken = new Map<string, string>();
  const staged = stored.map((column): StagedColumn => {
    const { name } = column;
    const to = Object.hasOwn(mapping, name) ? mapping[name] : name;
    if (to === null || to === undefined) return { archived: name, live: null, retyped: false };
    const live = table.columns.get(to);
    if (live === undefined) {
      const how =
        to === name ? 'is not in the table any more' : `is to become ${to}, which the table does not have`;
      problems.push(
        `column ${name} ${how}: say in \`columnMapping\` which column holds it now, or null to leave it out`,
      );
      return { archived: name, live: null, retyped: false };
    }
    if (live.generated !== null) {
      problems.push(
        `column ${name} holds values in the snapshot and ${to} is generated now: map it to null in \`columnMapping\` to leave it out`,
      );
      return { archived: name, live: null, retyped: false };
    }
    const other = taken.get(to);
    if (other !== undefined) problems.push(`columns ${other} and ${name} are both to become ${to}`);
    taken.set(to, name);
    return { archived: name, live, retyped: live.archivedAs !== column.type };
  });
  const wasGenerated = new Set(
    relation.columns.filter((column) => column.generated !== null).map((column) => column.name),
  );
  const added = [...table.columns.values()].filter(
    (column) => column.generated === null && !taken.has(column.name),
  );
  for (const column of added) {
    if (wasGenerated.has(column.name)) {
      problems.push(
        `column ${column.name} was generated when the snapshot was taken and is not now, so that its values are not in it`,
      );
    } else if (column.required) {
      problems.push(
        `column ${column.name} is new, NOT NULL and has no default: give it one, so that rows without it can be restored`,
      );
    }
  }
  for (const column of key) {
    if (!taken.has(column)) problems.push(`column ${column} of the key is not in the snapshot`);
  }
  return { staged, added, problems };
}
