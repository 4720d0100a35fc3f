import type { BlobGetPropertiesResponse } from '@azure/storage-blob';
import type { ObjectLock } from '../types/backup.ts';
import type { AzureCall, AzureClient, AzureConnection } from './azure-blob-connection.ts';
import { azureFailure } from './azure-blob-errors.ts';
import { abortedBy, policyMode, wholeSecond } from './azure-blob-write.ts';
import { assertObjectKey } from './object-key.ts';
import type { ArchiveTiers, ObjectRetention, TierState } from './storage.ts';

/**
 * Azure has no readable copies: a thawed blob moves to the Hot tier and stays there, whatever `days` says. Priority High
 * takes under an hour for most objects and Standard up to 15; a restore that has to thaw is in a hurry.
 */
export function azureBlobTiers(connection: AzureConnection): ArchiveTiers {
  return {
    async state(key, { signal } = {}) {
      return withProperties(connection, { operation: 'tier state', key, signal }, async (properties) =>
        tierState(properties),
      );
    },

    async thaw(key, { signal }) {
      await withProperties(
        connection,
        { operation: 'thaw', key, signal },
        async (properties, { container }) => {
          if (tierState(properties) !== 'ARCHIVED') return;
          try {
            const options = { rehydratePriority: 'High' as const, ...abortedBy(signal) };
            await container.getBlobClient(key).setAccessTier('Hot', options);
          } catch (error) {
            // Somebody else has asked meanwhile.
            if (azureFailure(error).code !== 'BlobBeingRehydrated') throw error;
          }
        },
      );
    },
  };
}

function tierState({ accessTier, archiveStatus }: BlobGetPropertiesResponse): TierState {
  if (archiveStatus?.startsWith('rehydrate-pending')) return 'THAWING';
  return accessTier === 'Archive' ? 'ARCHIVED' : 'READABLE';
}

/**
 * Immutability policies and legal holds of the present version; the container needs version-level immutability. A
 * COMPLIANCE lock stays one. Azure itself refuses to shorten those; that a GOVERNANCE lock is not shortened is checked
 * here, just before it is set.
 */
export function azureBlobRetention(
  connection: AzureConnection,
  mode: ObjectLock['mode'] = 'GOVERNANCE',
): ObjectRetention {
  return {
    async retain(key, until, { signal } = {}) {
      await withProperties(
        connection,
        { operation: 'retain', key, signal },
        async (properties, { container }) => {
          const { immutabilityPolicyExpiresOn: present, immutabilityPolicyMode: presentMode } = properties;
          const asked = wholeSecond(until);
          const locked = presentMode?.toLowerCase() === 'locked';
          const longEnough = present !== undefined && present >= asked;
          const policy = locked ? 'Locked' : policyMode(mode);
          if (longEnough && (locked || policy === 'Unlocked')) return;
          const expiriesOn = longEnough ? present : asked;
          await container
            .getBlobClient(key)
            .setImmutabilityPolicy({ expiriesOn, policyMode: policy }, abortedBy(signal));
        },
      );
    },

    async hold(key, state, { signal } = {}) {
      assertObjectKey(key);
      await connection.call({ operation: 'legal hold', key, signal }, ({ container }) =>
        container.getBlobClient(key).setLegalHold(state === 'ON', abortedBy(signal)),
      );
    },

    async state(key, { signal } = {}) {
      return withProperties(
        connection,
        { operation: 'retention state', key, signal },
        async (properties) => ({
          retainUntil: properties.immutabilityPolicyExpiresOn ?? null,
          legalHold: properties.legalHold ?? false,
          versionId: properties.versionId ?? null,
        }),
      );
    },
  };
}

async function withProperties<T>(
  connection: AzureConnection,
  call: AzureCall,
  work: (properties: BlobGetPropertiesResponse, client: AzureClient) => Promise<T>,
): Promise<T> {
  const { key, signal } = call;
  assertObjectKey(key);
  return connection.call(call, async (client) => {
    const { container, contentKey } = client;
    const options = { ...contentKey, ...abortedBy(signal) };
    return work(await container.getBlobClient(key).getProperties(options), client);
  });
}
