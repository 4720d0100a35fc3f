import pg from 'pg';

/** A moment of a statement, in the order in which they come. */
export interface CutStep {
  readonly index: number;
  readonly moment: 'before' | 'sent' | 'after';
  readonly text: string;
}

export interface Cutter extends Disposable {
  /** The steps since the last `arm`. */
  readonly steps: readonly CutStep[];
  /** Statements that were cut since the last `arm`: a test that cut nothing has tested nothing. */
  readonly cut: readonly CutStep[];
  /** Cuts the connection that comes to the n-th step from now, or the first whose text and moment fit. */
  arm(at?: number | ((step: CutStep) => boolean)): void;
}

interface Cuttable {
  readonly connection?: { readonly stream?: { destroy(): void } };
}

/**
 * Cuts connections of this process to PostgreSQL at a chosen statement: before it is sent, right after (the server does
 * it and the answer is lost), or after its answer. Counts the sessions of the library only.
 */
export function connectionCutter(): Cutter {
  const prototype = pg.Client.prototype as unknown as { query: (...values: unknown[]) => unknown };
  const original = prototype.query;
  let steps: CutStep[] = [];
  let cut: CutStep[] = [];
  let wanted: (step: CutStep) => boolean = () => false;

  const reach = (client: unknown, moment: CutStep['moment'], text: string): void => {
    const step = { index: steps.length + 1, moment, text };
    steps.push(step);
    if (!wanted(step)) return;
    wanted = () => false;
    cut.push(step);
    (client as Cuttable).connection?.stream?.destroy();
  };

  prototype.query = function (this: { database?: string }, ...values: unknown[]): unknown {
    const { application_name: name } = (
      this as unknown as { connectionParameters: { application_name?: string } }
    ).connectionParameters;
    if (!name?.startsWith('care-backup')) return original.apply(this, values);
    const [first] = values;
    const text =
      typeof first === 'string' ? first : String((first as { text?: string } | null)?.text ?? 'COPY');
    reach(this, 'before', text);
    const last = values.at(-1);
    if (typeof last === 'function') {
      values[values.length - 1] = (...answer: unknown[]): unknown => {
        reach(this, 'after', text);
        return last(...answer);
      };
    }
    const result = original.apply(this, values);
    reach(this, 'sent', text);
    if (!(result instanceof Promise)) return result;
    return result.then((answer: unknown) => {
      reach(this, 'after', text);
      return answer;
    });
  };
  return {
    get steps() {
      return steps;
    },
    get cut() {
      return cut;
    },
    arm(at) {
      steps = [];
      cut = [];
      wanted = typeof at === 'function' ? at : (step) => step.index === at;
    },
    [Symbol.dispose]() {
      prototype.query = original;
    },
  };
}
