import type { Credential } from '../types/credentials.ts';
import { DataProtectionError, StorageError } from '../types/errors.ts';

/** Gives the headers that authorize a request. */
interface Authorizer {
  headers(url: URL): Promise<Readonly<Record<string, string>>>;
  /** Forgets what the server refused, so that the next call asks the credential provider again. */
  forget(): void;
}

type AuthClient = InstanceType<typeof import('@google-cloud/storage')['Storage']>['authClient'];
type Source = AuthClient | { readonly accessToken: string } | 'ANONYMOUS';

const REFRESH_BEFORE_MS = 60_000;

/**
 * Service accounts sign a token for themselves (no token endpoint is asked); without `credentials` the SDK's
 * application default credentials are used, or nothing at an `http:` endpoint, which is an emulator.
 */
export function authorizer(options: {
  readonly credentials: (() => Promise<Credential>) | undefined;
  readonly endpoint: URL;
  readonly description: string;
}): Authorizer {
  let source: Promise<Source> | undefined;
  let expiresAt = Number.POSITIVE_INFINITY;

  async function open(): Promise<Source> {
    expiresAt = Number.POSITIVE_INFINITY;
    if (options.credentials === undefined) {
      if (options.endpoint.protocol === 'http:') return 'ANONYMOUS';
      return await authClient({});
    }
    const credential = await askHost(options.credentials, options.description);
    if (credential.expiresAt !== undefined) expiresAt = Date.parse(credential.expiresAt) - REFRESH_BEFORE_MS;
    const { accessToken, clientEmail, privateKey } = credential;
    if (accessToken) return { accessToken };
    if (clientEmail && privateKey) {
      return await authClient({ credentials: { client_email: clientEmail, private_key: privateKey } });
    }
    throw new DataProtectionError(
      `The credential of ${options.description} needs \`clientEmail\` and \`privateKey\`, or \`accessToken\`.`,
      'CREDENTIALS_UNAVAILABLE',
    );
  }

  return {
    async headers(url) {
      if (source === undefined || Date.now() >= expiresAt) {
        const opened = open();
        source = opened;
        opened.catch(() => {
          if (source === opened) source = undefined;
        });
      }
      const found = await source;
      if (found === 'ANONYMOUS') return {};
      if ('accessToken' in found) return { authorization: `Bearer ${found.accessToken}` };
      try {
        return Object.fromEntries(await found.getRequestHeaders(url.origin));
      } catch (error) {
        throw unauthorized(error, options.description);
      }
    },
    forget() {
      source = undefined;
    },
  };
}

/** What the host threw is not shown: nobody knows what is in it. */
export async function askHost(ask: () => Promise<Credential>, description: string): Promise<Credential> {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof DataProtectionError) throw error;
    throw new DataProtectionError(
      `The credential of ${description} could not be got from the host.`,
      'CREDENTIALS_UNAVAILABLE',
    );
  }
}

async function authClient(options: {
  readonly credentials?: { readonly client_email: string; readonly private_key: string };
}): Promise<AuthClient> {
  const { Storage } = await sdk();
  const { authClient: client } = new Storage({
    ...options,
    retryOptions: { autoRetry: false, maxRetries: 0 },
  });
  // Signed locally, as the gRPC clients of Google do by default.
  client.useJWTAccessWithScope = true;
  return client;
}

async function sdk() {
  try {
    return await import('@google-cloud/storage');
  } catch (cause) {
    throw new DataProtectionError(
      'GOOGLE_CLOUD_STORAGE needs a package: npm install @google-cloud/storage',
      'DEPENDENCY_MISSING',
      { cause },
    );
  }
}

/** The errors of the auth library hold requests with keys and tokens: none becomes a cause. */
function unauthorized(error: unknown, description: string): DataProtectionError {
  const status = statusOf(error);
  if (status !== undefined && status >= 400 && status < 500) {
    return new StorageError(`The credentials of ${description} were refused (${status}).`, 'STORAGE_DENIED');
  }
  if (status !== undefined) {
    return new StorageError(
      `The credentials of ${description} could not be fetched (${status}).`,
      'STORAGE_UNAVAILABLE',
    );
  }
  return new DataProtectionError(
    `${description} has no usable credentials: give \`clientEmail\` and the whole \`privateKey\` in PEM, an ` +
      '`accessToken`, or application default credentials.',
    'CREDENTIALS_UNAVAILABLE',
  );
}

function statusOf(error: unknown): number | undefined {
  if (typeof error !== 'object' || error === null || !('response' in error)) return undefined;
  const { response } = error;
  if (typeof response !== 'object' || response === null || !('status' in response)) return undefined;
  return typeof response.status === 'number' ? response.status : undefined;
}
