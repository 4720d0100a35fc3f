import type { RestoreDataMetrics, ValidationCheck, ValidationResults } from '../types/backup.ts';
import type { SnapshotContents } from '../types/contents.ts';
import type { ForeignKeysResult } from './foreign-keys.ts';
import { at, type RestorePlan } from './plan.ts';
import { addDigests, NO_ROWS, type RowsDigest, sameRows } from './row-digest.ts';

export interface Found {
  /** What the segments held. */
  readonly archived: ReadonlyMap<number, RowsDigest>;
  /** Rows counted in the restored tables. */
  readonly counted: ReadonlyMap<number, number>;
  /** What was read back from them; null where only numbers were asked for. */
  readonly readBack: ReadonlyMap<number, RowsDigest> | null;
}

export function metricsOf(contents: SnapshotContents): RestoreDataMetrics {
  return {
    totalRecords: sum(contents.relations.map((relation) => relation.rows)),
    totalSizeBytes: sum(contents.relations.map((relation) => relation.bytes)),
    recordsByEntity: Object.fromEntries(contents.entities.map((entity) => [entity.type, entity.rows])),
  };
}

/** Compares, by entity, what was restored with what was archived. Names and counts only. */
export function checkRows(contents: SnapshotContents, plan: RestorePlan, found: Found): ValidationCheck[] {
  return contents.entities.flatMap((entity) => {
    const leaves = plan.leaves.filter((leaf) => at(plan.roots, leaf) === entity.relation);
    const restored = sum(leaves.map((leaf) => found.counted.get(leaf) ?? 0));
    // Leaves whose rows were loaded together are compared together.
    const tables = [...Map.groupBy(leaves, (leaf) => at(plan.loadInto, leaf))];
    const named = (wrong: readonly (readonly [number, readonly number[]])[]): string =>
      wrong.length === 0 ? '' : ` (${wrong.map(([index]) => at(contents.relations, index).name).join(', ')})`;
    const miscounted = tables.filter(
      ([, own]) =>
        sum(own.map((leaf) => found.counted.get(leaf) ?? -1)) !==
        sum(own.map((leaf) => at(contents.relations, leaf).rows)),
    );
    const counts: ValidationCheck = {
      name: `rows of ${entity.type}`,
      passed: miscounted.length === 0 && restored === entity.rows,
      details: `${restored} restored, ${entity.rows} archived${named(miscounted)}`,
    };
    const { archived, readBack } = found;
    if (readBack === null) return [counts];
    const differing = tables.filter(([, own]) => !sameRows(digestOf(archived, own), digestOf(readBack, own)));
    const total = digestOf(readBack, leaves);
    const content: ValidationCheck = {
      name: `content of ${entity.type}`,
      passed: differing.length === 0,
      details:
        differing.length === 0
          ? `${total.rows} rows, ${total.bytes} bytes read back equal the archive's`
          : `rows read back differ from the archive's${named(differing)}`,
    };
    return [counts, content];
  });
}

const digestOf = (digests: ReadonlyMap<number, RowsDigest>, leaves: readonly number[]): RowsDigest =>
  leaves.reduce((digest, leaf) => addDigests(digest, digests.get(leaf) ?? NO_ROWS), NO_ROWS);

export const foreignKeyCheck = (keys: ForeignKeysResult): ValidationCheck => ({
  name: 'foreign keys',
  passed: true,
  details: `${keys.validated} hold, ${keys.notValid} are NOT VALID`,
});

export function validationResults(
  contents: SnapshotContents,
  found: Found,
  checks: readonly ValidationCheck[],
  validatedAt: Date,
): ValidationResults {
  return {
    passed: checks.every((check) => check.passed),
    validatedAt: validatedAt.toISOString(),
    recordsExpected: sum(contents.relations.map((relation) => relation.rows)),
    recordsFound: sum([...found.counted.values()]),
    checks,
  };
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, n) => total + n, 0);
