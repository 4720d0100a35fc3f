import type {
  CreateMultipartUploadCommandInput,
  PutObjectCommandInput,
  ServerSideEncryption as S3Encryption,
  StorageClass,
} from '@aws-sdk/client-s3';
import type { ObjectLock, ServerSideEncryption } from '../types/backup.ts';
import type { Credential } from '../types/credentials.ts';
import { type CustomerKeyHeaders, customerKeyHeaders } from './s3-credentials.ts';
import type { PutCall } from './storage.ts';

export interface S3ObjectOptions {
  readonly storageClass?: string | undefined;
  readonly serverSideEncryption?: ServerSideEncryption | undefined;
  readonly objectLock?: ObjectLock | undefined;
  readonly customerKey?: (() => Promise<Credential>) | undefined;
}

/** What a new object is written with, whether by one request or in parts. */
type NewObject = Pick<
  PutObjectCommandInput & CreateMultipartUploadCommandInput,
  | 'StorageClass'
  | 'ServerSideEncryption'
  | 'SSEKMSKeyId'
  | 'SSECustomerAlgorithm'
  | 'SSECustomerKey'
  | 'SSECustomerKeyMD5'
  | 'ObjectLockMode'
  | 'ObjectLockRetainUntilDate'
>;

export interface S3ObjectHeaders {
  /** For calls that read or extend an object: the customer key, where there is one. */
  access(): Promise<CustomerKeyHeaders>;
  /** For calls that begin one. */
  create(options: PutCall): Promise<NewObject>;
  /** For the probe: encrypted like the rest, in the bucket's own class, and never locked. */
  probe(): Promise<NewObject>;
}

const DAY_MS = 24 * 60 * 60 * 1000;

export function s3ObjectHeaders(options: S3ObjectOptions, description: string): S3ObjectHeaders {
  const { storageClass, serverSideEncryption, objectLock, customerKey } = options;
  let key: Promise<CustomerKeyHeaders> | undefined;

  function access(): Promise<CustomerKeyHeaders> {
    if (customerKey === undefined) return Promise.resolve({});
    key ??= customerKeyHeaders(customerKey, description).catch((error) => {
      key = undefined;
      throw error;
    });
    return key;
  }

  async function probe(): Promise<NewObject> {
    return { ...(await access()), ...encryption(serverSideEncryption) };
  }

  return {
    access,
    probe,
    async create({ tier }) {
      return {
        ...(await probe()),
        ...(storageClass === undefined || tier === 'HOT' ? {} : { StorageClass: asSdk(storageClass) }),
        ...(objectLock === undefined
          ? {}
          : {
              ObjectLockMode: objectLock.mode,
              ObjectLockRetainUntilDate: wholeSeconds(Date.now() + objectLock.retainDays * DAY_MS),
            }),
      };
    },
  };
}

/** Providers keep locks by the second: rounded up, so that a lock never ends before it was asked to. */
export function wholeSeconds(ms: number): Date {
  return new Date(Math.ceil(ms / 1000) * 1000);
}

function encryption(sse: ServerSideEncryption | undefined): {
  ServerSideEncryption?: S3Encryption;
  SSEKMSKeyId?: string;
} {
  switch (sse?.type) {
    case 'PROVIDER_KEY':
      return { ServerSideEncryption: 'AES256' };
    case 'KMS':
      return {
        ServerSideEncryption: 'aws:kms',
        ...(sse.keyId === undefined ? {} : { SSEKMSKeyId: sse.keyId }),
      };
    default:
      return {};
  }
}

/** The SDK's list of classes is not complete for compatible stores; the provider refuses what it does not know. */
function asSdk(storageClass: string): StorageClass {
  return storageClass as StorageClass;
}
