import type { Screen } from './screen.ts';

/** Everything that the demo has to prove. One that was never tried counts as failed. */
const PROOFS = {
  verified: 'the stored snapshot verifies',
  damageFound: 'verification finds one flipped bit',
  damageRefused: 'a damaged copy is not restored and leaves nothing',
  written: 'the writer changed both organizations while the backup ran',
  equal: 'every restored row equals the row at the moment of the backup',
  own: 'no row of another organization was restored',
  unreadable: 'nothing readable lies in the storage',
  constraints: 'keys, checks and foreign keys hold',
  sequences: 'new rows get new numbers',
  rowSecurity: 'row-level security is in force',
  offlineOnce: 'what a device hands in twice takes effect once',
  offlineOrder: 'a clock-in overtakes the notes that were handed in before it',
  offlineConflict: 'every edit is in a row, a conflict or a supersession',
} as const;

type ProofName = keyof typeof PROOFS;

interface Outcome {
  readonly held: boolean;
  readonly details: string;
}

/** Collects what was proven and what was not. */
export class Proofs {
  readonly #screen: Screen;
  readonly #outcomes = new Map<ProofName, Outcome>();

  constructor(screen: Screen) {
    this.#screen = screen;
  }

  /** Notes a proof, and says it. A proof that failed once stays failed. */
  note(name: ProofName, held: boolean, details: string): void {
    const before = this.#outcomes.get(name);
    if (before === undefined || before.held) this.#outcomes.set(name, { held, details });
    this.#screen.line(`   ${held ? 'PROVEN' : 'FAILED'}: ${PROOFS[name]} (${details})`);
  }

  /** Says how it ended; true only if every proof was tried and held. */
  conclude(): boolean {
    const names = Object.keys(PROOFS) as ProofName[];
    const failed = names.filter((name) => this.#outcomes.get(name)?.held !== true);
    this.#screen.line();
    for (const name of failed) {
      const details = this.#outcomes.get(name)?.details ?? 'it was not tried';
      this.#screen.line(`FAILED: ${PROOFS[name]}: ${details}`);
    }
    this.#screen.line(
      failed.length === 0
        ? `All ${names.length} proofs held.`
        : `${failed.length} of ${names.length} proofs failed.`,
    );
    return failed.length === 0;
  }
}
