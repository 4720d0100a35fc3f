/** A JSON Pointer (RFC 6901) of the steps: `/vitals/pulse`. The whole document: an empty text. */
export function pointer(steps: readonly string[]): string {
  return steps.map((step) => `/${step.replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
}

/** The steps of a JSON Pointer; undefined: it is none. */
export function stepsOf(text: string): readonly string[] | undefined {
  if (text === '') return [];
  if (!text.startsWith('/') || /~(?![01])/.test(text)) return undefined;
  return text
    .slice(1)
    .split('/')
    .map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'));
}

/** What holds for a path and all in it. The step `*` stands for any one: the entries of a keyed array, mostly. */
export interface PathRule<T> {
  readonly steps: readonly string[];
  readonly value: T;
}

/** Rules by JSON Pointer, the closest first: the longer, then the one with fewer `*`. What is no pointer is left out. */
export function pathRules<T>(byPointer: { readonly [path: string]: T }): readonly PathRule<T>[] {
  const stars = (steps: readonly string[]): number => steps.filter((step) => step === ANY).length;
  return Object.entries(byPointer)
    .flatMap(([text, value]) => {
      const steps = stepsOf(text);
      return steps === undefined ? [] : [{ steps, value }];
    })
    .sort((a, b) => b.steps.length - a.steps.length || stars(a.steps) - stars(b.steps));
}

const ANY = '*';

/** The closest rule whose path is, or holds, the given one. */
export function ruleFor<T>(rules: readonly PathRule<T>[], path: readonly string[]): PathRule<T> | undefined {
  return rules.find(
    ({ steps }) => steps.length <= path.length && steps.every((step, i) => step === ANY || step === path[i]),
  );
}
