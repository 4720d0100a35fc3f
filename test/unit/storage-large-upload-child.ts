/**
 * A process that uploads a large object to the server of the test, until it is killed.
 *
 *   <base url> <handle or ''> <size> <part bytes>    says HANDLE <handle> and DONE <parts sent> <parts found>
 */
import { writeSync } from 'node:fs';
import { uploadLarge } from '../../src/storage/large-upload.ts';
import { contentOf, remoteStorage } from './storage-large-upload-remote.ts';

const [url = '', handle = '', size = '0', partBytes = '0'] = process.argv.slice(2);
const source = contentOf(Number(size));
const result = await uploadLarge(remoteStorage(url), {
  key: 'large/object',
  size: source.byteLength,
  read: async (offset, length) => source.subarray(offset, offset + length),
  handle: handle === '' ? undefined : handle,
  partBytes: Number(partBytes),
  parallel: 2,
  onHandle: (begun) => void writeSync(1, `HANDLE ${begun}\n`),
});
writeSync(1, `DONE ${result.partsSent} ${result.partsFound}\n`);
