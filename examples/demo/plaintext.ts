/** Looks for what the clients' rows say in the bytes that lie in a folder. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { rowsOf, withClient } from './database.ts';
import { ORACLE_SCHEMA } from './oracle.ts';

/** Last names and streets of clients who are in the backup and still there, too long to turn up in random bytes; a column's name. */
export async function knownWords(url: string): Promise<string[]> {
  return withClient(url, async (client) => {
    const rows = await rowsOf<{ word: string }>(
      client,
      `SELECT DISTINCT word, rank
         FROM (SELECT o.last_name, (o.address).street FROM ${ORACLE_SCHEMA}.clients o JOIN public.clients p USING (id)
                WHERE o.deleted_at IS NULL AND p.deleted_at IS NULL ORDER BY id LIMIT 1000) c,
              unnest(ARRAY[last_name, street]) WITH ORDINALITY AS w(word, rank)
        WHERE octet_length(word) >= 8 AND word !~ '[\\\\"[:cntrl:]]' ORDER BY rank, word LIMIT 100`,
    );
    return [...rows.map(({ word }) => word), 'primary_care_plan_id'];
  });
}

export interface Search {
  readonly files: number;
  readonly bytes: number;
  /** Words that were found at least once. */
  readonly found: readonly string[];
}

/** Reads every file of a folder, whatever it is called. */
export async function searchFolder(folder: string, words: readonly string[]): Promise<Search> {
  const found = new Set<string>();
  let files = 0;
  let bytes = 0;
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const content = await readFile(join(entry.parentPath, entry.name));
    files += 1;
    bytes += content.length;
    for (const word of words) if (content.includes(word)) found.add(word);
  }
  return { files, bytes, found: [...found] };
}
