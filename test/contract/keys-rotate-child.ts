/** Rotates the keyring file several times; says each new id. */
import { localKeyring } from '../../src/keys/local-keyring.ts';

const [file = '', times = '0'] = process.argv.slice(2);
const keys = localKeyring({ file });
for (let n = 0; n < Number(times); n += 1) console.log(await keys.rotate());
