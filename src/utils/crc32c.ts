/** CRC-32C (Castagnoli; RFC 3720, appendix B.4), which Google's services compare. Node has only CRC-32. */

const POLYNOMIAL = 0x82f63b78;

/** TABLES[k][b]: the CRC of byte b followed by k zero bytes, so that eight bytes are taken at a time. */
const TABLES: readonly Int32Array[] = (() => {
  const table = Int32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    return crc;
  });
  const tables = [table];
  for (let zeros = 1; zeros < 8; zeros += 1) {
    tables.push((tables[zeros - 1] ?? table).map((crc) => (crc >>> 8) ^ at(table, crc & 0xff)));
  }
  return tables;
})();

function at(table: Int32Array | undefined, index: number): number {
  return table?.[index] ?? 0;
}

/** The CRC-32C of bytes that follow others with the CRC `before`; an unsigned number. */
export function crc32c(bytes: Uint8Array, before = 0): number {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = TABLES;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const whole = bytes.byteLength - (bytes.byteLength % 8);
  let crc = ~before;
  let offset = 0;
  for (; offset < whole; offset += 8) {
    const low = view.getUint32(offset, true) ^ crc;
    const high = view.getUint32(offset + 4, true);
    crc =
      at(t7, low & 0xff) ^
      at(t6, (low >>> 8) & 0xff) ^
      at(t5, (low >>> 16) & 0xff) ^
      at(t4, low >>> 24) ^
      at(t3, high & 0xff) ^
      at(t2, (high >>> 8) & 0xff) ^
      at(t1, (high >>> 16) & 0xff) ^
      at(t0, high >>> 24);
  }
  for (; offset < bytes.byteLength; offset += 1) {
    crc = at(t0, (crc ^ view.getUint8(offset)) & 0xff) ^ (crc >>> 8);
  }
  return ~crc >>> 0;
}

/** The CRC-32C of two runs of bytes after each other, from the CRC of each and the length of the second. */
export function combineCrc32c(first: number, second: number, secondLength: number): number {
  // `first` moved by secondLength zero bytes: matrices over GF(2), squared for every bit of the length (as in zlib).
  let matrix = Array.from({ length: 32 }, (_, bit) => (bit === 0 ? POLYNOMIAL : 1 << (bit - 1)));
  for (let power = 0; power < 3; power += 1) matrix = square(matrix);
  let crc = first;
  for (let length = secondLength; length > 0; length = Math.floor(length / 2)) {
    if (length % 2 === 1) crc = multiply(matrix, crc);
    matrix = square(matrix);
  }
  return (crc ^ second) >>> 0;
}

function multiply(matrix: readonly number[], vector: number): number {
  let product = 0;
  for (let bit = 0; bit < 32; bit += 1) if ((vector >>> bit) & 1) product ^= matrix[bit] ?? 0;
  return product >>> 0;
}

function square(matrix: readonly number[]): number[] {
  return matrix.map((row) => multiply(matrix, row));
}
