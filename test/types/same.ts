/** Readonly or not is left out of the comparison: interfaces are readonly, what Zod builds is not. */
type Writable<T> = T extends readonly (infer E)[]
  ? Writable<E>[]
  : T extends object
    ? { -readonly [K in keyof T]: Writable<T[K]> }
    : T;

/** Only the keys, all required, so that an optional key that one side lacks is a difference. */
type Keys<T> = T extends readonly (infer E)[]
  ? readonly Keys<E>[]
  : T extends object
    ? { [K in keyof T]-?: Keys<NonNullable<T[K]>> }
    : 'leaf';

type Within<A, B> = [A] extends [B] ? true : false;

/** true where two types hold the same values and the same keys at every level, optional ones included. */
export type Same<A, B> =
  Within<Writable<A>, Writable<B>> extends true
    ? Within<Writable<B>, Writable<A>> extends true
      ? Within<Keys<A>, Keys<B>> extends true
        ? Within<Keys<B>, Keys<A>>
        : false
      : false
    : false;

/** Compiles only for `holds<true>()`. */
export function holds<T extends true>(): T[] {
  return [];
}
