/**
 * What the tests of local storage run in processes of their own.
 *
 *   write <root> <writer> <count>           puts objects 0..count-1 and says each outcome
 *   race <root> <writer>                    says that it is ready, then puts each object whose number it is told
 *   fill <root>                             fills the small disk that <root> is, then makes it read-only
 *   inodes <root>                           runs out of inodes while it makes folders
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { localStorage } from '../../src/storage/local.ts';
import type { ObjectStorage } from '../../src/storage/storage.ts';
import { keyOf, writtenBy } from './storage-child-data.ts';

const [mode = '', root = '', writer = '0', count = '0'] = process.argv.slice(2);
const storage = localStorage({ path: root });

if (mode === 'write') await write();
else if (mode === 'race') await race();
else if (mode === 'fill') await fill();
else if (mode === 'inodes') await runOutOfInodes();
else throw new Error(`Unknown mode ${mode}`);

async function race(): Promise<void> {
  writeSync(1, 'ready\n');
  for await (const told of createInterface(process.stdin)) await put(Number(told));
}

async function write(): Promise<void> {
  for (let n = 0; n < Number(count); n += 1) await put(n);
}

async function put(n: number): Promise<void> {
  const outcome = await codeOf(storage.put(keyOf(n), writtenBy(Number(writer), n)));
  writeSync(1, `${outcome} ${n}\n`);
}

async function fill(): Promise<void> {
  const small = Buffer.alloc(64 * 1024, 7);
  await storage.put('kept/small', [small]);
  const tooLarge = await codeOf(storage.put('deep/er/big', [Buffer.alloc(8 * 1024 * 1024, 1)]));
  const state = { keys: await keys(storage), uploads: uploads(), folders: folders() };
  const again = await codeOf(storage.put('kept/after', [small]));
  const smallWhole = Buffer.compare(await storage.get('kept/small'), small) === 0;
  execFileSync('mount', ['-o', 'remount,bind,ro', root]);
  const readOnly = {
    put: await codeOf(storage.put('kept/more', [small])),
    delete: await codeOf(storage.delete('kept/small')),
    get: await codeOf(storage.get('kept/small')),
  };
  console.log(
    JSON.stringify({ tooLarge, ...state, again, smallWhole, readOnly, keysAtEnd: await keys(storage) }),
  );
}

async function runOutOfInodes(): Promise<void> {
  const tooDeep = await codeOf(storage.put('a/b/c/d/e/f/g', [Buffer.from('x')]));
  const state = { keys: await keys(storage), uploads: uploads(), folders: folders() };
  const again = await codeOf(storage.put('flat', [Buffer.from('x')]));
  console.log(JSON.stringify({ tooDeep, ...state, again, keysAtEnd: await keys(storage) }));
}

async function codeOf(call: Promise<unknown>): Promise<unknown> {
  try {
    await call;
    return 'ok';
  } catch (error) {
    return error instanceof Error && 'code' in error ? error.code : String(error);
  }
}

async function keys(of: ObjectStorage): Promise<string[]> {
  const all: string[] = [];
  for await (const { key } of of.list('')) all.push(key);
  return all.sort();
}

function folders(): string[] {
  return readdirSync(root).sort();
}

function uploads(): string[] {
  return readdirSync(join(root, '.tmp-uploads'));
}
