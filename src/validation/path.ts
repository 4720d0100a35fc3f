/** A step into an object says which of its fields it is, for where the name cannot be shown. */
export type Step = number | { readonly key: string; readonly index: number };
export type Path = readonly Step[];

/**
 * A path for people: `schedule[0].startTime`. Names that do not read like the names of fields may hold what must not
 * be logged; they are shown by position: `tags.(field 2)`.
 */
export function showPath(path: Path): string {
  return path
    .map((step, position) => {
      if (typeof step === 'number') return `[${step}]`;
      const name = isPlainName(step.key) ? step.key : `(field ${step.index + 1})`;
      return position === 0 ? name : `.${name}`;
    })
    .join('');
}

export type Locate = (keys: readonly PropertyKey[]) => Path;

/** Gives the paths of Zod issues, with positions looked up in the value that was parsed. */
export function locator(root: unknown): Locate {
  const positions = new WeakMap<object, ReadonlyMap<string, number>>();

  function positionOf(key: string, holder: unknown): number {
    if (typeof holder !== 'object' || holder === null) return 0;
    const known = positions.get(holder) ?? new Map(Object.keys(holder).map((name, index) => [name, index]));
    positions.set(holder, known);
    return known.get(key) ?? 0;
  }

  return (keys) => {
    let holder = root;
    return keys.map((key): Step => {
      const current = holder;
      holder = child(current, key);
      return typeof key === 'number' ? key : { key: String(key), index: positionOf(String(key), current) };
    });
  };
}

export function valueAt(keys: readonly PropertyKey[], root: unknown): unknown {
  return keys.reduce(child, root);
}

function child(holder: unknown, key: PropertyKey): unknown {
  return typeof holder === 'object' && holder !== null && Object.hasOwn(holder, key)
    ? Reflect.get(holder, key)
    : undefined;
}

/** Letters only, in camelCase or snake_case: no id, key or password looks like that. */
function isPlainName(name: string): boolean {
  return name.length <= 40 && /^[a-z]+(?:[A-Z]+[a-z]*|_[a-z]+)*$/.test(name);
}
