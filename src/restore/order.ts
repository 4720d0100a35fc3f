import type { ForeignKey } from './live-tables.ts';

/** Tables in an order in which each comes after those that it refers to, and the keys for which there is none. */
export interface WriteOrder {
  /** Positions in the list that was given, referenced tables first. */
  readonly order: readonly number[];
  /** Keys of tables that refer to each other in a ring: they are checked at the end. A set of rows may refer to itself. */
  readonly rings: readonly ForeignKey[];
}

/** Pure. Tarjan's strongly connected components, which come out with the referenced ones first. */
export function writeOrder(tables: readonly number[], keys: readonly ForeignKey[]): WriteOrder {
  const own = keys.filter(({ from, to }) => tables.includes(from) && tables.includes(to));
  const index = new Map<number, number>();
  const low = new Map<number, number>();
  const component = new Map<number, number>();
  const open: number[] = [];
  const order: number[] = [];
  let components = 0;
  const visit = (table: number): void => {
    index.set(table, index.size);
    low.set(table, index.get(table) ?? 0);
    open.push(table);
    for (const { from, to } of own) {
      if (from !== table || component.has(to)) continue;
      if (!index.has(to)) visit(to);
      low.set(table, Math.min(low.get(table) ?? 0, low.get(to) ?? 0));
    }
    if (low.get(table) !== index.get(table)) return;
    for (let member = open.pop(); member !== undefined; member = open.pop()) {
      component.set(member, components);
      order.push(tables.indexOf(member));
      if (member === table) break;
    }
    components += 1;
  };
  for (const table of tables) if (!index.has(table)) visit(table);
  const inRing = ({ from, to }: ForeignKey): boolean =>
    from !== to && component.get(from) === component.get(to);
  return { order, rings: own.filter(inRing) };
}
