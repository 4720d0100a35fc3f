import { parseArgs } from 'node:util';

export interface DemoOptions {
  /** Visits of each of the two organizations; the other tables follow in proportion. */
  readonly visits: number;
  /** Leaves the server and the files up at the end, until Ctrl-C. */
  readonly keep: boolean;
  /** Spoils proofs on purpose: for the test that wants to see them fail. */
  readonly sabotage: ReadonlySet<Sabotage>;
}

const SABOTAGES = [
  'no-writer',
  'no-damage',
  'alter-row',
  'lose-row',
  'foreign-row',
  'no-constraint',
  'old-sequence',
  'no-row-security',
  'plaintext',
  'second-note',
  'late-clock-in',
  'lost-edit',
] as const;
export type Sabotage = (typeof SABOTAGES)[number];

/** Enough for a bar to move; half a minute on two cores. */
const DEFAULT_VISITS = 60_000;

export const USAGE = `npm run demo -- [--visits N] [--keep]

  --visits N   visits of each of the two organizations, ${DEFAULT_VISITS} when left out (at least 200)
  --keep       leaves the server and the files up at the end, until Ctrl-C`;

/** Reads the command line; undefined when it asks for help. Throws a sentence for what it does not understand. */
export function readOptions(
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): DemoOptions | undefined {
  const { values } = parseArgs({
    args: [...args],
    options: {
      visits: { type: 'string', default: String(DEFAULT_VISITS) },
      keep: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  const visits = Number(values.visits);
  if (!Number.isSafeInteger(visits) || visits < 200) {
    throw new RangeError(`--visits is a whole number of at least 200, not ${values.visits}`);
  }
  return { visits, keep: values.keep, sabotage: sabotageOf(environment.CARE_DEMO_SABOTAGE) };
}

function sabotageOf(names = ''): ReadonlySet<Sabotage> {
  const wanted = names.split(',').filter((name) => name !== '');
  const known = SABOTAGES.filter((name) => wanted.includes(name));
  if (known.length === wanted.length) return new Set(known);
  throw new RangeError(`CARE_DEMO_SABOTAGE is a list of ${SABOTAGES.join(', ')}`);
}
