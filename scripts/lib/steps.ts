/** What a step found. No problems: it passed. */
export interface Verdict {
  /** What was looked at, such as `142 files`. */
  readonly seen: string;
  readonly problems: readonly string[];
}

export interface Step {
  readonly name: string;
  run(): Promise<Verdict>;
}

/** Runs a step and prints one line, and below it each problem. A step that throws has failed. */
export async function runStep({ name, run }: Step): Promise<boolean> {
  const start = performance.now();
  const { seen, problems } = await run().catch(
    (error: unknown): Verdict => ({
      seen: 'it could not be finished',
      problems: [error instanceof Error ? error.message : String(error)],
    }),
  );
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
  console.log(
    problems.length === 0
      ? `ok    ${name}: ${seen} (${seconds} s)`
      : `FAIL  ${name}: ${count}; ${seen} (${seconds} s)`,
  );
  for (const problem of problems) console.log(indent(problem));
  return problems.length === 0;
}

function indent(text: string): string {
  return text.trimEnd().replaceAll(/^/gm, '      ');
}
