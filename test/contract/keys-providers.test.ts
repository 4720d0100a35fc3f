import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { argon2id } from '../../src/keys/argon2id.ts';
import { createKeyringFile, localKeyring } from '../../src/keys/local-keyring.ts';
import { passphraseKeyring } from '../../src/keys/passphrase-keyring.ts';
import { keyContract } from './keys.ts';

const encodings = (key: Uint8Array) => [
  Buffer.from(key).toString('base64'),
  Buffer.from(key).toString('hex'),
];

keyContract('local keyring in a file', openFile, { retires: true });

async function openFile() {
  const folder = await mkdtemp(join(tmpdir(), 'care-backup-keys-'));
  const file = join(folder, 'keyring.json');
  const id = await createKeyringFile(file);
  const { keys } = JSON.parse(await readFile(file, 'utf8'));
  const impostorFile = join(folder, 'impostor.json');
  const impostor = { id, key: randomBytes(32).toString('base64'), createdAt: '2026-01-01T00:00:00.000Z' };
  await writeFile(impostorFile, JSON.stringify({ version: 1, current: id, keys: [impostor] }), {
    mode: 0o600,
  });
  return {
    keys: localKeyring({ file }),
    reopen: async () => localKeyring({ file }),
    impostor: async () => localKeyring({ file: impostorFile }),
    secrets: encodings(Buffer.from(keys[0].key, 'base64')),
    close: () => rm(folder, { recursive: true }),
  };
}

keyContract(
  'local keyring in memory',
  async () => {
    const key = new Uint8Array(randomBytes(32));
    return {
      keys: localKeyring({ keys: [{ id: 'first', key }] }),
      impostor: async () =>
        localKeyring({ keys: [{ id: 'first', key: randomBytes(32).toString('base64') }] }),
      secrets: [...encodings(key), [...key].join(', ')],
    };
  },
  { rotates: false },
);

/** Opens a keyring from a variable that exists only meanwhile. */
function fromEnvironment(text: string) {
  const name = `CARE_BACKUP_TEST_${randomBytes(8).toString('hex')}`;
  process.env[name] = text;
  try {
    return localKeyring({ env: name });
  } finally {
    delete process.env[name];
  }
}

for (const encoding of ['base64', 'hex'] as const) {
  keyContract(
    `local keyring, one ${encoding} key in the environment`,
    async () => {
      const key = randomBytes(32);
      const text = key.toString(encoding);
      return {
        keys: fromEnvironment(text),
        reopen: async () => fromEnvironment(text),
        secrets: encodings(key),
      };
    },
    { rotates: false, hasImpostor: false },
  );
}

keyContract(
  'local keyring, a keyring in the environment',
  async () => {
    const list = ['old', 'new'].map((id) => ({
      id,
      key: randomBytes(32).toString('base64'),
      createdAt: '2026-01-31T00:00:00Z',
    }));
    const text = JSON.stringify({ version: 1, current: 'new', keys: list });
    return {
      keys: fromEnvironment(text),
      reopen: async () => fromEnvironment(text),
      impostor: async () => fromEnvironment(randomKeysOf(text)),
      secrets: list.flatMap(({ key }) => encodings(Buffer.from(key, 'base64'))),
    };
  },
  { rotates: false },
);

function randomKeysOf(text: string): string {
  return text.replace(/"key":"[^"]*"/g, () => `"key":"${randomBytes(32).toString('base64')}"`);
}

keyContract(
  'passphrase keyring',
  async () => {
    const cost = { memoryKiB: 19_456, iterations: 2, parallelism: 1 };
    const salt = randomBytes(16);
    const open = (passphrase: string) =>
      passphraseKeyring({
        passphrases: [{ name: 'first', credentials: () => ({ passphrase }) }],
        current: { name: 'first', salt: salt.toString('hex'), ...cost },
      });
    const passphrase = `passphrase ${randomBytes(8).toString('hex')}`;
    const bytes = Buffer.from(passphrase);
    const derived = await argon2id(bytes, { ...cost, salt });
    return {
      keys: open(passphrase),
      reopen: async () => open(passphrase),
      impostor: async () => open(`${passphrase}!`),
      secrets: [passphrase, ...encodings(bytes), ...encodings(derived), [...derived].join(', ')],
    };
  },
  { rotates: false },
);
