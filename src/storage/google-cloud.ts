import { DataProtectionError } from '../types/errors.ts';
import { assertRange } from './byte-range.ts';
import { type GoogleCloudOptions, googleCloudClient } from './google-cloud-client.ts';
import { googleCloudUploads } from './google-cloud-parts.ts';
import { readObject } from './google-cloud-read.ts';
import { googleCloudRetention } from './google-cloud-retention.ts';
import { uploadObject } from './google-cloud-upload.ts';
import { assertObjectKey, assertObjectKeyPrefix, isObjectKeySegment } from './object-key.ts';
import type { ObjectStorage } from './storage.ts';

export type { GoogleCloudOptions } from './google-cloud-client.ts';

/**
 * GOOGLE_CLOUD_STORAGE: a bucket, by the JSON API. The package `@google-cloud/storage` authorizes the calls; it is loaded
 * with the first call.
 *
 * The buckets of Firebase Storage are buckets of Google Cloud Storage: give the name without `gs://`, as the Firebase
 * console shows it (`<project>.firebasestorage.app`, older projects `<project>.appspot.com`), and the service account of
 * the project (or another one with access). Firebase's security rules do not apply to service accounts; see that the
 * rules let no app user at the backups, or better, use a bucket of its own.
 *
 * Writes are create-only by `ifGenerationMatch=0`, with CRC-32C and MD5 that the server checks and that are compared with
 * its answer. Up to 16 MiB go in one request, more in a resumable session that is cancelled when the put fails. A whole
 * object that is read is checked against its CRC-32C. COLDLINE and ARCHIVE can be read at once.
 *
 * Permissions: `storage.objects.create`, `get`, `list`, `delete`; for `retention` `update` and `setRetention`,
 * `overrideUnlockedRetention`. `delete` removes every version; the bucket's soft delete policy still keeps what it keeps.
 * What is under retention or a hold is not removed: `STORAGE_DENIED`.
 *
 * A missing bucket is `CONFIGURATION_INVALID`. 401, 403 and a wrong customer key are `STORAGE_DENIED`; 429 and 503
 * `STORAGE_THROTTLED`; what the server or this side finds changed `STORAGE_CORRUPT`; the rest `STORAGE_UNAVAILABLE`.
 */
export function googleCloudStorage(options: GoogleCloudOptions): ObjectStorage {
  assertOptions(options);
  const client = googleCloudClient(options);

  return {
    description: client.description,

    async put(key, body, { signal, tier } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      const asked = client.asked('put', key);
      const metadata = client.newObject(client.storageClassOf(tier));
      await uploadObject(client, { name: key, body, metadata, asked, signal });
    },

    async get(key, { range, signal } = {}) {
      assertObjectKey(key);
      assertRange(range);
      signal?.throwIfAborted();
      return readObject(client, key, range, signal);
    },

    async stat(key, { signal } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      const found = await client.metadata(key, client.asked('stat', key), signal);
      return found && { key, size: found.size, modifiedAt: found.timeCreated };
    },

    async *list(prefix, { signal } = {}) {
      assertObjectKeyPrefix(prefix);
      signal?.throwIfAborted();
      // Every key begins at 0 or after it; the parts of unfinished uploads begin with a dot.
      const query = prefix === '' ? { startOffset: '0' } : {};
      for await (const { name, size, timeCreated } of client.objects(prefix, client.asked('list', prefix), {
        signal,
        query,
      })) {
        signal?.throwIfAborted();
        if (isKey(name)) yield { key: name, size, modifiedAt: timeCreated };
      }
      signal?.throwIfAborted();
    },

    async delete(key, { signal } = {}) {
      assertObjectKey(key);
      signal?.throwIfAborted();
      const asked = client.asked('delete', key);
      const generations: string[] = [];
      for await (const { name, generation } of client.objects(key, asked, {
        signal,
        query: { versions: 'true' },
      })) {
        // Names come in order, and the key is the first that starts with it.
        if (name !== key) break;
        generations.push(generation);
      }
      // The live version last: what is not wholly removed still shows.
      generations.sort((a, b) => (BigInt(a) < BigInt(b) ? -1 : 1));
      for (const generation of generations) await client.remove(key, generation, asked, signal);
    },

    uploads: googleCloudUploads(client, assertObjectKey),
    retention: googleCloudRetention(client, assertObjectKey),
  };
}

function isKey(name: string): boolean {
  return name.split('/').every(isObjectKeySegment);
}

function assertOptions({ bucket, endpoint, serverSideEncryption, customerKey }: GoogleCloudOptions): void {
  if (typeof bucket !== 'string' || !/^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$/.test(bucket)) {
    throw invalid('needs `bucket`, the plain name of a bucket without `gs://`.');
  }
  if (endpoint !== undefined && !(URL.canParse(endpoint) && /^https?:$/.test(new URL(endpoint).protocol))) {
    throw invalid('needs an `endpoint` that is an http or https address.');
  }
  if (serverSideEncryption?.type === 'KMS' && !serverSideEncryption.keyId) {
    throw invalid('with KMS needs `keyId`, the resource name of the key.');
  }
  if (serverSideEncryption?.type === 'CUSTOMER_KEY' && customerKey === undefined) {
    throw invalid('with CUSTOMER_KEY needs `customerKeyRef` and a credential provider that knows it.');
  }
}

function invalid(what: string): DataProtectionError {
  return new DataProtectionError(`googleCloudStorage ${what}`, 'CONFIGURATION_INVALID');
}
