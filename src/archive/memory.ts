/**
 * Frees the memory of bytes that have it for themselves and that nobody needs any more, at once instead of at the next
 * collection: the collector counts what is waiting and runs the more often for it. Small ones, which share Node's pool,
 * are left alone.
 */
export function freeMemory({ buffer, byteOffset, byteLength }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && byteOffset === 0 && byteLength > Buffer.poolSize) buffer.transfer(0);
}
