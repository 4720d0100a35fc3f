import type { ConflictStrategy, EntityRow } from '../types/offline-sync.ts';
import {
  type DetectedConflict,
  differences,
  type EntityWrite,
  type MergeRules,
  mergeVersions,
  newRow,
  writeOf,
} from './detect.ts';
import { pathRules, ruleFor, stepsOf } from './json-pointer.ts';
import { mergeRows, type Side } from './three-way-merge.ts';

/** What is to become of an entity on which two sides differ. */
export interface Resolved {
  /** KEEP: it stays as it is on the server. */
  readonly kind: 'WRITE' | 'KEEP';
  readonly strategy: ConflictStrategy;
  /** As in `EntityWrite`; null with KEEP. CREATE also brings back what the server had deleted. */
  readonly change: EntityWrite['change'] | null;
  readonly row: EntityRow | null;
  readonly changed: readonly string[];
  /** Paths (JSON Pointers) of the client's changes that were given up; an empty text: its deletion, or all of it. */
  readonly superseded: readonly string[];
  /** Paths of the server's changes that the row does not have; an empty text: its deletion. */
  readonly overwritten: readonly string[];
  /** SUPERSEDED: all of the client's changes were given up. APPLIED: the entity is as the client has it. */
  readonly outcome: 'APPLIED' | 'MERGED' | 'SUPERSEDED';
}

export type Resolution =
  | Resolved
  /** The host's own merge is asked; where that cannot, go on with what remains of the strategies. */
  | { readonly kind: 'CUSTOM'; readonly remaining: readonly ConflictStrategy[] }
  /** The strategy that was tried last, and why it decided nothing. */
  | { readonly kind: 'MANUAL'; readonly strategy: ConflictStrategy | null; readonly reason: string };

/** What a decision needs of a conflict. */
export type Disputed = Pick<
  DetectedConflict,
  'type' | 'base' | 'baseKnown' | 'client' | 'server' | 'fields' | 'rules'
>;

export interface AutomaticOptions {
  /** Tried first to last. */
  readonly strategies: readonly ConflictStrategy[];
  /** By JSON Pointer, for the path and all in it; the longest counts. An empty text: for deletions too. */
  readonly fieldStrategies: { readonly [path: string]: ConflictStrategy };
  /** Whose change of a path is the newer one; of an empty text: of the whole. */
  readonly newest: Newest;
}

export type Newest = (path: string) => Side | 'UNKNOWN';

/**
 * Decides a conflict by strategies, or leaves it to a person. Where nobody knows what the client started from, or the
 * entity was never there, nothing is merged or compared: there only CLIENT_WINS and SERVER_WINS decide, where they are
 * among the strategies.
 */
export function resolveAutomatically(conflict: DetectedConflict, options: AutomaticOptions): Resolution {
  const { strategies } = options;
  let last: { readonly strategy: ConflictStrategy | null; readonly reason: string } = {
    strategy: null,
    reason: 'No strategy is set.',
  };
  for (const [i, strategy] of strategies.entries()) {
    const decided = byStrategy(conflict, strategy, options);
    if (decided === 'HOST') return { kind: 'CUSTOM', remaining: strategies.slice(i + 1) };
    if (typeof decided !== 'string') return decided;
    last = { strategy, reason: decided };
    if (strategy === 'MANUAL') break;
  }
  return { kind: 'MANUAL', ...last };
}

/** A text says why it is not decided. */
function byStrategy(
  conflict: DetectedConflict,
  strategy: ConflictStrategy,
  options: AutomaticOptions,
): Resolved | 'HOST' | string {
  if (strategy === 'MANUAL') return 'It is left to a person.';
  if (strategy === 'SERVER_WINS') return allTo('SERVER', conflict, strategy);
  if (strategy === 'CLIENT_WINS')
    return conflict.creatable ? allTo('CLIENT', conflict, strategy) : 'There is nothing to write it to.';
  if (!conflict.baseKnown) return 'Nobody knows what the client started from.';
  if (conflict.type === 'DEPENDENCY') return 'The entity was never there.';
  if (strategy === 'CUSTOM') return 'HOST';
  if (strategy === 'FIELD_LEVEL_MERGE') return byField(conflict, options);
  return byNewest(conflict, options.newest) ?? 'The clocks do not tell which is newer.';
}

/** Every conflicting field to whoever changed it later. */
function byNewest(conflict: Disputed, newest: Newest): Resolved | undefined {
  const sides = new Map(disputedPaths(conflict).map((path) => [path, newest(path)]));
  if ([...sides.values()].includes('UNKNOWN')) return undefined;
  return byChoice(conflict, 'NEWEST_WINS', (path) => (sides.get(path) === 'CLIENT' ? 'CLIENT' : 'SERVER'));
}

/** Where one side has deleted the entity, all of it. */
const disputedPaths = ({ client, server, fields }: Disputed): readonly string[] =>
  client === null || server === null ? [ALL] : fields.map(({ path }) => path);

/** Every conflicting field by a strategy of its own. */
function byField(
  conflict: DetectedConflict,
  { fieldStrategies, newest }: AutomaticOptions,
): Resolved | 'HOST' | string {
  const rules = pathRules(fieldStrategies);
  const sides = new Map<string, Side | 'HOST' | undefined>(
    disputedPaths(conflict).map((path) => [
      path,
      decidedSide(ruleFor(rules, stepsOf(path) ?? [])?.value, newest(path)),
    ]),
  );
  const decided = [...sides.values()];
  if (decided.includes(undefined)) return 'Not every field has a strategy that decides it.';
  if (decided.includes('HOST')) return 'HOST';
  return byChoice(conflict, 'FIELD_LEVEL_MERGE', (path) =>
    sides.get(path) === 'CLIENT' ? 'CLIENT' : 'SERVER',
  );
}

function decidedSide(
  strategy: ConflictStrategy | undefined,
  newest: Side | 'UNKNOWN',
): Side | 'HOST' | undefined {
  switch (strategy) {
    case 'CLIENT_WINS':
      return 'CLIENT';
    case 'SERVER_WINS':
      return 'SERVER';
    case 'NEWEST_WINS':
      return newest === 'UNKNOWN' ? undefined : newest;
    case 'CUSTOM':
      return 'HOST';
    default:
      return undefined;
  }
}

export interface PersonalDecision {
  readonly strategy: ConflictStrategy;
  /** With FIELD_LEVEL_MERGE, by JSON Pointer: whose value stands; the client's where left out. */
  readonly fields?: { readonly [path: string]: Side } | undefined;
  /** With MANUAL and CUSTOM. Columns that are left out stay as the server has them; null: deleted. */
  readonly data?: EntityRow | null | undefined;
  /** With NEWEST_WINS. */
  readonly newest?: Newest | undefined;
}

/**
 * Carries out what a person has decided, over the server's row as the conflict has it. Also for what a host's own merge
 * gives: CUSTOM. undefined: it decides nothing, since `data` is missing, nobody knows which is newer, or what is to be
 * deleted may not be seen by who asked for it.
 */
export function resolveByPerson(conflict: Disputed, decision: PersonalDecision): Resolved | undefined {
  const { strategy, fields = {}, data, newest } = decision;
  if (isDeletionOfUnseen(conflict) && strategy !== 'SERVER_WINS') return undefined;
  switch (strategy) {
    case 'CLIENT_WINS':
      return allTo('CLIENT', conflict, strategy);
    case 'SERVER_WINS':
      return allTo('SERVER', conflict, strategy);
    case 'NEWEST_WINS':
      return newest === undefined ? undefined : byNewest(conflict, newest);
    case 'FIELD_LEVEL_MERGE': {
      const rules = pathRules(fields);
      return byChoice(conflict, strategy, (path) => ruleFor(rules, stepsOf(path) ?? [])?.value ?? 'CLIENT');
    }
    default:
      return data === undefined ? undefined : asGiven(conflict, data, strategy);
  }
}

/** The path of a whole row. */
const ALL = '';

function allTo(side: Side, conflict: Disputed, strategy: ConflictStrategy): Resolved {
  const { client, server, rules } = conflict;
  if (side === 'SERVER') return settled(conflict, strategy, server, changesOfClient(conflict), []);
  if (client !== null && server !== null) return byChoice(conflict, strategy, () => 'CLIENT');
  const row = client && newRow(client, rules);
  return settled(conflict, strategy, row, [], changesOfServer(conflict, row));
}

/** Where one side has deleted the entity, that is the only choice there is. */
function byChoice(conflict: Disputed, strategy: ConflictStrategy, sideOf: (path: string) => Side): Resolved {
  const { base, baseKnown, client, server, rules } = conflict;
  if (client === null || server === null) return allTo(sideOf(ALL), conflict, strategy);
  const found = mergeVersions({ ...conflict, client, server }, rules, sideOf);
  const paths = found.conflicts.map(({ path }) => path);
  // What the server left alone may be in conflict too, where nothing is merged unasked.
  const changed = baseKnown && base !== null ? found.serverChanged : paths;
  const lost = paths.filter((path) => sideOf(path) === 'SERVER');
  const overwritten = paths.filter((path) => sideOf(path) === 'CLIENT' && changed.includes(path));
  return settled(conflict, strategy, found.merged, lost, overwritten);
}

function asGiven(conflict: Disputed, data: EntityRow | null, strategy: ConflictStrategy): Resolved {
  const { base, baseKnown, client, server, rules } = conflict;
  const row = data === null ? null : givenRow(conflict, data);
  const overwritten = changesOfServer(conflict, row);
  if (client === null) return settled(conflict, strategy, row, row === null ? [] : [ALL], overwritten);
  if (row === null && server === null)
    return settled(conflict, strategy, row, changesOfClient(conflict), overwritten);
  const { clientChanged, outstanding } = mergeRows({
    base: (baseKnown ? base : server) ?? {},
    server: row ?? {},
    client,
    shape: rules.shape,
    policies: withoutCounters(rules),
  });
  const resolved = settled(conflict, strategy, row, outstanding, overwritten);
  const nothingStands = outstanding.length > 0 && outstanding.length === clientChanged.length;
  return nothingStands ? { ...resolved, outcome: 'SUPERSEDED' } : resolved;
}

/** Whether a counter has somebody's share cannot be seen from it. */
const withoutCounters = ({ policies }: MergeRules): MergeRules['policies'] =>
  Object.fromEntries(Object.entries(policies).filter(([, policy]) => policy !== 'COUNTER'));

function givenRow({ server, rules }: Disputed, data: EntityRow): EntityRow {
  if (server === null) return newRow(data, rules);
  const owned = rules.shape.serverOwned;
  return {
    ...server,
    ...Object.fromEntries(Object.entries(data).filter(([column]) => !owned.includes(column))),
  };
}

/** Of what was once given to the client, and may not be seen by him any more: it stays as it is. */
const isDeletionOfUnseen = ({ type, client }: Disputed): boolean => type === 'DEPENDENCY' && client === null;

/** All that the client changed and the server does not have. */
function changesOfClient(conflict: Disputed): readonly string[] {
  const { client, server, fields, rules } = conflict;
  if (client === null) return server === null && !isDeletionOfUnseen(conflict) ? [] : [ALL];
  if (server === null) return fields.length === 0 ? [ALL] : fields.map(({ path }) => path);
  return mergeVersions({ ...conflict, client, server }, rules).outstanding;
}

/** All that the server changed and a row that takes its place does not have. */
function changesOfServer(
  { base, baseKnown, server, rules }: Disputed,
  row: EntityRow | null,
): readonly string[] {
  if (server === null) return row === null ? [] : [ALL];
  return mergeRows({
    base: (baseKnown ? base : null) ?? undefined,
    server: row ?? {},
    client: server,
    shape: rules.shape,
    policies: withoutCounters(rules),
  }).outstanding;
}

function settled(
  conflict: Disputed,
  strategy: ConflictStrategy,
  row: EntityRow | null,
  superseded: readonly string[],
  overwritten: readonly string[],
): Resolved {
  const { client, server, rules } = conflict;
  const write = writeOf(server, row, rules.shape);
  return {
    kind: write === undefined ? 'KEEP' : 'WRITE',
    strategy,
    change: write?.change ?? null,
    row: write?.row ?? null,
    changed: write?.changed ?? [],
    superseded,
    overwritten,
    outcome: outcomeOf(),
  };

  function outcomeOf(): Resolved['outcome'] {
    if (client === null) return row === null && superseded.length === 0 ? 'APPLIED' : 'SUPERSEDED';
    if (superseded.length > 0) return write === undefined ? 'SUPERSEDED' : 'MERGED';
    return row !== null && differences(row, client, rules.shape).length === 0 ? 'APPLIED' : 'MERGED';
  }
}
