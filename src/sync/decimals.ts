/** ± digits × 10^exponent, without zeros at either end of the digits. No digits: 0. */
interface Decimal {
  readonly sign: '' | '-';
  readonly digits: string;
  readonly exponent: number;
}

const DECIMAL = /^([+-]?)(\d*)(?:\.(\d*))?(?:e([+-]?)0*(\d{1,9}))?$/i;
/** More zeros than these are not written out: a text of ten characters could ask for gigabytes. */
const MOST_ZEROS = 40;
/** Sums of numbers that lie further apart than these digits are not computed. */
const MOST_DIGITS = 10_000;

/** The one text of a decimal number, exactly: `12.5` for `12.50`, `+012.5` and `1.25e1`. undefined: it is none. */
export function canonicalDecimal(text: string): string | undefined {
  const decimal = parse(text);
  return decimal === undefined ? undefined : format(decimal);
}

/** `a + b - minus`, exactly. undefined: one of them is no decimal number, or they lie too far apart. */
export function addDecimals(a: string, b: string, minus: string): string | undefined {
  const [x, y, z] = [parse(a), parse(b), parse(minus)];
  if (x === undefined || y === undefined || z === undefined) return undefined;
  const present = [x, y, z].filter(({ digits }) => digits !== '');
  const lowest = Math.min(...present.map(({ exponent }) => exponent));
  const highest = Math.max(...present.map(({ digits, exponent }) => exponent + digits.length));
  if (present.length === 0) return '0';
  if (highest - lowest > MOST_DIGITS) return undefined;
  const scaled = ({ sign, digits, exponent }: Decimal): bigint =>
    digits === '' ? 0n : BigInt(`${sign}${digits}${'0'.repeat(exponent - lowest)}`);
  return canonicalDecimal(`${scaled(x) + scaled(y) - scaled(z)}e${lowest}`);
}

function parse(text: string): Decimal | undefined {
  const [, sign, whole = '', fraction = '', exponentSign, exponent = '0'] = DECIMAL.exec(text) ?? [];
  const written = whole + fraction;
  if (written === '') return undefined;
  let start = 0;
  while (written[start] === '0') start += 1;
  let end = written.length;
  while (end > start && written[end - 1] === '0') end -= 1;
  if (start === end) return { sign: '', digits: '', exponent: 0 };
  const power = exponentSign === '-' ? -Number(exponent) : Number(exponent);
  return {
    sign: sign === '-' ? '-' : '',
    digits: written.slice(start, end),
    exponent: power - fraction.length + written.length - end,
  };
}

function format({ sign, digits, exponent }: Decimal): string {
  if (digits === '') return '0';
  const point = digits.length + exponent;
  if (exponent > MOST_ZEROS || -point > MOST_ZEROS) return `${sign}${digits}e${exponent}`;
  if (exponent >= 0) return `${sign}${digits}${'0'.repeat(exponent)}`;
  if (point > 0) return `${sign}${digits.slice(0, point)}.${digits.slice(point)}`;
  return `${sign}0.${'0'.repeat(-point)}${digits}`;
}
