import fc from 'fast-check';

/** A column's type as SQL, with SQL expressions for values of it. */
export interface ColumnType {
  readonly sql: string;
  readonly value: fc.Arbitrary<string>;
}

/** Types of pg_catalog that no value can be put into, or whose value is not the row's own. */
export const EXCLUDED: Readonly<Record<string, string>> = {
  gtsvector: 'has no input: an index’s inside',
  pg_node_tree: 'has no input: a catalog’s inside',
  pg_ndistinct: 'has no input: statistics',
  pg_dependencies: 'has no input: statistics',
  pg_mcv_list: 'has no input: statistics',
  pg_brin_bloom_summary: 'has no input: an index’s inside',
  pg_brin_minmax_multi_summary: 'has no input: an index’s inside',
};

const quote = (text: string): string => `E'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
const literal = (sql: string, texts: fc.Arbitrary<string>): ColumnType => ({
  sql,
  value: texts.map((text) => `${quote(text)}::${sql}`),
});
const oneOf = (...texts: string[]): fc.Arbitrary<string> => fc.constantFrom(...texts);

/** Text that PostgreSQL can hold, with what COPY escapes and marks well represented. */
const text = fc.oneof(
  oneOf('', '\\N', '\\.', '\t', '\n', '\r\n', '\\', '\b\f\v', 'NULL', '{}', '"', "'", '字', '\u{1F600}', ' '),
  fc.string({ unit: 'binary', maxLength: 30 }).map((t) => t.replaceAll('\0', '\\').toWellFormed()),
  fc.integer({ min: 1500, max: 9000 }).map((length) => 'long\\\t'.repeat(length / 6)),
);
const int = (bits: bigint): fc.Arbitrary<string> =>
  fc
    .oneof(
      fc.bigInt({ min: -(2n ** (bits - 1n)), max: 2n ** (bits - 1n) - 1n }),
      fc.constantFrom(0n, -(2n ** (bits - 1n)), 2n ** (bits - 1n) - 1n),
    )
    .map(String);
const unsigned = (bits: bigint): fc.Arbitrary<string> =>
  fc.bigInt({ min: 0n, max: 2n ** bits - 1n }).map(String);
const float = fc.oneof(
  oneOf('NaN', 'Infinity', '-Infinity', '-0', '0.1', '1e-307'),
  fc.double({ noNaN: true }).map(String),
);
const small = fc.oneof(fc.double({ min: -1e9, max: 1e9, noNaN: true }).map(String), oneOf('0', '-0', '0.1'));
const point = fc.tuple(small, small).map(([x, y]) => `(${x},${y})`);
const numeric = fc.oneof(
  oneOf('NaN', 'Infinity', '-Infinity', '0.0', '1.10', '-0.000', '1e200', '1e-200'),
  fc.tuple(fc.bigInt(), fc.nat(20)).map(([n, scale]) => `${n}e-${scale}`),
);
const day = fc
  .tuple(
    fc.integer({ min: 1, max: 4000 }),
    fc.integer({ min: 1, max: 12 }),
    fc.integer({ min: 1, max: 28 }),
    fc.boolean(),
  )
  .map(([y, m, d, bc]) => ({ date: `${String(y).padStart(4, '0')}-${m}-${d}`, era: bc ? ' BC' : '' }));
const clock = fc
  .tuple(fc.nat(23), fc.nat(59), fc.nat(59), fc.nat(999_999))
  .map(([h, m, s, us]) => `${h}:${m}:${s}.${String(us).padStart(6, '0')}`);
const date = fc.oneof(
  oneOf('infinity', '-infinity', '5874897-12-31', '4713-01-01 BC'),
  day.map((d) => d.date + d.era),
);
const timestamp = fc.oneof(
  oneOf('infinity', '-infinity'),
  fc.tuple(day, clock).map(([d, c]) => `${d.date} ${c}${d.era}`),
);
const zoned = fc.oneof(
  oneOf('infinity', '-infinity'),
  fc.tuple(day, clock, oneOf('Z', '+05:45', '-11')).map(([d, c, z]) => `${d.date} ${c}${z}${d.era}`),
);
const lsn = fc.tuple(unsigned(32n), unsigned(32n)).map((n) => n.map((p) => BigInt(p).toString(16)).join('/'));
const json = fc.json({ maxDepth: 3 }).map((t) =>
  t
    .replaceAll('\\u0000', ' ')
    .replaceAll(/\\ud[89a-f][0-9a-f]{2}/gi, ' ')
    .toWellFormed(),
);

/** Literals by type name of pg_catalog. */
const LITERALS: Readonly<Record<string, fc.Arbitrary<string>>> = {
  bool: oneOf('t', 'f'),
  bytea: fc.uint8Array({ maxLength: 60 }).map((bytes) => `\\x${Buffer.from(bytes).toString('hex')}`),
  char: oneOf('', 'a', '\\', '\t', '\n', "'", '\\377'),
  name: text.map((t) => t.slice(0, 20)),
  int2: int(16n),
  int4: int(32n),
  int8: int(64n),
  int2vector: fc.array(int(16n), { maxLength: 4 }).map((n) => n.join(' ')),
  oid: unsigned(32n),
  oidvector: fc.array(unsigned(32n), { maxLength: 4 }).map((n) => n.join(' ')),
  xid: unsigned(32n),
  xid8: unsigned(64n),
  cid: unsigned(32n),
  tid: fc.tuple(unsigned(32n), unsigned(16n)).map(([b, o]) => `(${b},${o})`),
  text,
  varchar: text,
  bpchar: text,
  refcursor: text,
  json: json.map((t) => ` ${t}`),
  jsonb: json,
  jsonpath: oneOf('$', 'strict $.a[*] ? (@.b > 1)', 'lax $."x y"'),
  // No XML declaration: PostgreSQL's own output leaves out one that says nothing (version 1.0), as pg_dump does.
  xml: oneOf('', '<a/>', 'text &amp; more', '<b c="d">\t</b>', '<!-- \\N -->'),
  float4: fc.oneof(
    oneOf('NaN', 'Infinity', '-0', '0.1'),
    fc.float({ noNaN: true }).map((n) => String(Math.fround(n))),
  ),
  float8: float,
  numeric,
  money: fc.bigInt({ min: -(10n ** 15n), max: 10n ** 15n }).map((cents) => `${cents / 100n}.05`),
  point,
  lseg: fc.tuple(point, point).map((p) => `[${p.join(',')}]`),
  path: fc
    .tuple(fc.array(point, { minLength: 1, maxLength: 4 }), fc.boolean())
    .map(([p, open]) => (open ? `[${p}]` : `(${p})`)),
  box: fc.tuple(point, point).map((p) => p.join(',')),
  polygon: fc.array(point, { minLength: 1, maxLength: 4 }).map((p) => `(${p})`),
  line: fc.tuple(small, small).map(([a, c]) => `{${a},1,${c}}`),
  circle: fc.tuple(point, fc.nat(1000)).map(([p, r]) => `<${p},${r}>`),
  macaddr: fc.uint8Array({ minLength: 6, maxLength: 6 }).map((b) => Buffer.from(b).toString('hex')),
  macaddr8: fc.uint8Array({ minLength: 8, maxLength: 8 }).map((b) => Buffer.from(b).toString('hex')),
  inet: fc.oneof(fc.ipV4(), fc.ipV6(), oneOf('10.1.2.3/8', '::ffff:1.2.3.4/96')),
  cidr: oneOf('10.0.0.0/8', '::/0', '2001:db8::/32', '1.2.3.4/32'),
  date,
  time: fc.oneof(clock, oneOf('24:00')),
  timetz: fc.tuple(clock, oneOf('+00', '-12:34:56', '+14')).map((p) => p.join('')),
  timestamp,
  timestamptz: zoned,
  interval: fc
    .tuple(int(24n), int(24n), int(40n))
    .map(([m, d, us]) => `${m} months ${d} days ${us} microseconds`),
  bit: fc.array(oneOf('0', '1'), { minLength: 1, maxLength: 1 }).map((b) => b.join('')),
  varbit: fc.array(oneOf('0', '1'), { maxLength: 70 }).map((b) => b.join('')),
  uuid: fc.uuid(),
  pg_lsn: lsn,
  tsvector: oneOf('', "'a b':1A,3 c:2", "'it''s \\\\ x'", 'z'),
  tsquery: oneOf('', 'a & !b', "'x y':*AB <2> c | d"),
  pg_snapshot: oneOf('10:20:10,14,15', '1:1:'),
  txid_snapshot: oneOf('10:20:10,14,15', '1:1:'),
  aclitem: oneOf('=r*w/pg_monitor', 'pg_read_all_data=arwdDxt/pg_monitor'),
  regproc: oneOf('-', 'now', 'pg_catalog.version'),
  regprocedure: oneOf('-', 'pg_catalog.lower(text)'),
  regoper: oneOf('0', 'pg_catalog.||/'),
  regoperator: oneOf('0', 'pg_catalog.+(integer,integer)'),
  regclass: oneOf('-', 'pg_class', '4294967295'),
  regcollation: oneOf('-', '"C"'),
  regtype: oneOf('-', 'integer', 'time with time zone[]'),
  regconfig: oneOf('-', 'english'),
  regdictionary: oneOf('-', 'simple'),
  regnamespace: oneOf('-', 'pg_catalog'),
  regrole: oneOf('-', 'pg_monitor'),
  regdatabase: oneOf('-', 'postgres'),
};

/** The subtypes' bounds, in order; a range of two equal exclusive bounds is `empty`. */
const BOUNDS: Readonly<Record<string, readonly string[]>> = {
  int4range: ['-5', '0', '7', '2147483646'],
  int8range: ['-9223372036854775808', '0', '9223372036854775806'],
  numrange: ['-Infinity', '-1.10', '0.0', '1e30', 'Infinity'],
  daterange: ['-infinity', '0044-03-15 BC', '2024-02-29', 'infinity'],
  tsrange: ['-infinity', '2024-02-29 23:59:59.999999', 'infinity'],
  tstzrange: ['-infinity', '2024-02-29 23:59:59.999999+05', 'infinity'],
};
const rangeOf = (name: string): fc.Arbitrary<string> | undefined => {
  const bounds = BOUNDS[name];
  if (bounds === undefined) return undefined;
  const at = fc.nat(bounds.length - 1);
  return fc.oneof(
    oneOf('empty', '(,)'),
    fc
      .tuple(at, at, oneOf('[', '('), oneOf(']', ')'), oneOf('', 'lower', 'upper'))
      .map(([a, b, open, close, gone]) => {
        const [low, high] = [bounds[Math.min(a, b)], bounds[Math.max(a, b)]];
        return `${open}${gone === 'lower' ? '' : `"${low}"`},${gone === 'upper' ? '' : `"${high}"`}${close}`;
      }),
  );
};

/** Values of a base, range or multirange type of pg_catalog; undefined for one that is not known here. */
export function catalogType(name: string): ColumnType | undefined {
  const range = rangeOf(name);
  const multi = name.endsWith('multirange') ? rangeOf(name.replace('multirange', 'range')) : undefined;
  const texts =
    LITERALS[name] ??
    range ??
    (multi === undefined ? undefined : fc.array(multi, { maxLength: 3 }).map((r) => `{${r}}`));
  return texts === undefined ? undefined : literal(`pg_catalog."${name}"`, texts);
}

/** A type that a schema defines, with the statement. */
interface DefinedType extends ColumnType {
  readonly create: string | null;
}

export interface RandomSchema {
  readonly create: readonly string[];
  readonly columns: readonly ColumnType[];
}

const nullable = (value: fc.Arbitrary<string>, sql: string): fc.Arbitrary<string> =>
  fc.oneof({ weight: 1, arbitrary: fc.constant(`NULL::${sql}`) }, { weight: 5, arbitrary: value });

const arrayOf = ({ sql, value }: ColumnType): ColumnType => ({
  sql: `${sql}[]`,
  value: fc
    .tuple(fc.array(nullable(value, sql), { maxLength: 4 }), fc.nat(2))
    .map(([items, shape]) =>
      shape === 0 && items.length > 0
        ? `ARRAY[[${items}], [${items}]]::${sql}[]`
        : `ARRAY[${items}]::${sql}[]`,
    ),
});

/** Columns of catalog types and of arrays, enums, domains, composites and ranges made of them, some levels deep. */
export const randomSchema = (names: readonly string[]): fc.Arbitrary<RandomSchema> =>
  fc
    .array(
      fc.record({
        kind: fc.constantFrom('PLAIN', 'PLAIN', 'ARRAY', 'ENUM', 'DOMAIN', 'COMPOSITE'),
        base: fc.constantFrom(...names),
        of: fc.array(fc.nat(), { minLength: 1, maxLength: 4 }),
        labels: fc.uniqueArray(
          fc.string({ minLength: 1, maxLength: 8 }).map((t) => t.replaceAll('\0', '?')),
          { minLength: 1, maxLength: 4 },
        ),
      }),
      { minLength: 1, maxLength: 9 },
    )
    .map((plans) => {
      const types: DefinedType[] = [];
      for (const [i, { kind, base, of, labels }] of plans.entries()) {
        const sqlName = `random."Type ${i} '\\ ""q"`;
        const simple = catalogType(base);
        if (simple === undefined) throw new Error(`${base} is not known`);
        const earlier = (n: number): ColumnType => types[n % Math.max(1, types.length)] ?? simple;
        if (kind === 'ARRAY')
          types.push({ ...arrayOf(arrayOfArrays(earlier(of[0] ?? 0), simple)), create: null });
        else if (kind === 'ENUM')
          types.push({
            sql: sqlName,
            create: `CREATE TYPE ${sqlName} AS ENUM (${labels.map(quote)})`,
            value: fc.constantFrom(...labels).map((label) => `${quote(label)}::${sqlName}`),
          });
        else if (kind === 'DOMAIN') {
          const { sql, value } = earlier(of[0] ?? 0);
          types.push({
            sql: sqlName,
            create: `CREATE DOMAIN ${sqlName} AS ${sql}`,
            value: value.map((v) => `(${v})::${sqlName}`),
          });
        } else if (kind === 'COMPOSITE') {
          const parts = of.map(earlier);
          types.push({
            sql: sqlName,
            create: `CREATE TYPE ${sqlName} AS (${parts.map(({ sql }, n) => `"f ${n}" ${sql}`)})`,
            value: fc
              .tuple(...parts.map(({ value, sql }) => nullable(value, sql)))
              .map((values) => `ROW(${values})::${sqlName}`),
          });
        } else types.push({ ...simple, create: null });
      }
      return { create: types.flatMap(({ create }) => create ?? []), columns: types };
    });

/** Arrays have no arrays as elements: of an array comes another type. */
const arrayOfArrays = (type: ColumnType, instead: ColumnType): ColumnType =>
  type.sql.endsWith('[]') ? instead : type;

export const rowsOfSchema = ({ columns }: RandomSchema): fc.Arbitrary<string[][]> =>
  fc.array(fc.tuple(...columns.map(({ value, sql }) => nullable(value, sql))), { maxLength: 12 });
