import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import { knownWords, searchFolder } from './plaintext.ts';
import { count, megabytes } from './screen.ts';
import type { Stage } from './stage.ts';

/**
 * Searches the stored bytes for names and streets of clients. Compression alone would hide them, so the clients are
 * also stored without compression: not encrypted, where the search must find them, and encrypted, where it must not.
 */
export async function proveSecrecy(stage: Stage): Promise<void> {
  const { folder, options, proofs, screen, storageFolder, url } = stage;
  const words = await knownWords(url);
  if (options.sabotage.has('plaintext')) await appendFile(join(storageFolder, 'log.txt'), words.join('\n'));
  const open = await storeClients(stage, join(folder, 'clients-open'), { encryptionEnabled: false });
  const closed = await storeClients(stage, join(folder, 'clients-encrypted'), { encryptionEnabled: true });
  const searches = [
    { what: 'control: clients, neither compressed nor encrypted', ...(await searchFolder(open, words)) },
    { what: 'clients, encrypted only', ...(await searchFolder(closed, words)) },
    { what: 'the backup', ...(await searchFolder(storageFolder, words)) },
  ];
  screen.table(
    ['searched', 'files', 'MB', 'words found'],
    searches.map(({ what, files, bytes, found }) => [
      what,
      count(files),
      megabytes(bytes),
      `${found.length} of ${words.length}`,
    ]),
  );
  const [control, ...secret] = searches.map(({ found }) => found.length);
  proofs.note(
    'unreadable',
    control === words.length && words.length > 1 && secret.every((found) => found === 0),
    `${words.length} names and streets of clients searched for, such as ${words.find((word) => /^\p{Lu}/u.test(word))}`,
  );
}

async function storeClients(
  { backups }: Stage,
  path: string,
  { encryptionEnabled }: { encryptionEnabled: boolean },
): Promise<string> {
  const configuration = await backups.createConfiguration({
    name: encryptionEnabled ? 'Clients, encrypted only' : 'Clients, in the clear',
    scope: { includeEntities: ['CLIENT'] },
    storageDestination: { type: 'LOCAL_FILESYSTEM', localStorage: { path } },
    compressionEnabled: false,
    encryptionEnabled,
    allowUnencryptedPHI: !encryptionEnabled,
  });
  await backups.createSnapshot({ configurationId: configuration.id }, { wait: true });
  return path;
}
