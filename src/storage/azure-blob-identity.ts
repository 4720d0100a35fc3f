import type { TokenCredential } from '@azure/identity';
import { DataProtectionError } from '../types/errors.ts';

/** Azure's own chain of credentials: environment, workload identity, managed identity, the developer's login. */
export async function azureIdentity(): Promise<TokenCredential> {
  const identity = await import('@azure/identity').catch((cause: unknown) => {
    throw new DataProtectionError(
      'AZURE_BLOB without `credentialsRef` needs the package @azure/identity: npm install @azure/identity',
      'DEPENDENCY_MISSING',
      { cause },
    );
  });
  return new identity.DefaultAzureCredential();
}
