/** The key of the n-th object that the writing children race for. */
export function keyOf(n: number): string {
  return `run/${n % 5}/deep/${n}`;
}

/** What a child stores there: other bytes and another size for every writer and object; from 12 bytes to 2 MiB. */
export function writtenBy(writer: number, n: number): Buffer[] {
  const size = ((n * 7_919 + writer * 104_729) % 2_097_152) + 12;
  const header = Buffer.alloc(12);
  header.writeUInt32BE(writer, 0);
  header.writeUInt32BE(n, 4);
  header.writeUInt32BE(size, 8);
  const body = Buffer.alloc(size - 12, `${writer}:${n};`);
  return [header, body.subarray(0, size >> 1), body.subarray(size >> 1)];
}

/** Who wrote a whole object; throws when it is not one. */
export function writerOf(bytes: Uint8Array, n: number): number {
  const writer = Buffer.from(bytes).readUInt32BE(0);
  if (Buffer.compare(bytes, Buffer.concat(writtenBy(writer, n))) !== 0) {
    throw new Error(`Object ${n} is not what writer ${writer} put.`);
  }
  return writer;
}
