import { awsKms } from '../../src/keys/aws-kms.ts';
import { azureKeyVault } from '../../src/keys/azure-key-vault.ts';
import { googleKms } from '../../src/keys/google-kms.ts';
import { AWS_REGION, type FakeAwsKms, fakeAwsKms } from '../harness/fake-aws-kms.ts';
import { type FakeGoogleKms, fakeGoogleKms, GOOGLE_KEY, GOOGLE_MAC_KEY } from '../harness/fake-google-kms.ts';
import { type FakeKeyVault, fakeKeyVault } from '../harness/fake-key-vault.ts';
import { keyContract } from './keys.ts';

const AWS_SECRET = 'aws-secret-that-nobody-may-see';

function awsProvider({ arn, macArn, endpoint, accessKeyId }: FakeAwsKms) {
  const credentials = () => ({ accessKeyId, secretAccessKey: AWS_SECRET });
  return awsKms({ keyId: arn, macKeyId: macArn, region: AWS_REGION, endpoint, credentials });
}

keyContract(
  'AWS KMS',
  async () => {
    const [fake, other] = [await fakeAwsKms('one-name'), await fakeAwsKms('one-name')];
    return {
      keys: awsProvider(fake),
      reopen: async () => awsProvider(fake),
      impostor: async () => awsProvider(other),
      secrets: [...fake.secrets, AWS_SECRET],
      close: async () => {
        await fake.close();
        await other.close();
      },
    };
  },
  { rotates: false },
);

function googleProvider({ endpoint, accessToken }: FakeGoogleKms) {
  const credentials = () => ({ accessToken });
  return googleKms({ keyName: GOOGLE_KEY, macKeyVersion: GOOGLE_MAC_KEY, endpoint, credentials });
}

keyContract('Google KMS', async () => {
  const [fake, other] = [await fakeGoogleKms(), await fakeGoogleKms()];
  return {
    keys: googleProvider(fake),
    reopen: async () => googleProvider(fake),
    impostor: async () => googleProvider(other),
    secrets: [...fake.secrets, fake.accessToken],
    close: async () => {
      await fake.close();
      await other.close();
    },
  };
});

function azureProvider({ vaultUrl, keyName, token }: FakeKeyVault) {
  const getToken = async () => ({ token, expiresOnTimestamp: Date.now() + 3_600_000 });
  const clientOptions = { allowInsecureConnection: true, disableChallengeResourceVerification: true };
  return azureKeyVault({ vaultUrl, keyName, tokenCredential: { getToken }, clientOptions });
}

// The id of a version is made by the vault and names the vault: no other key has it.
keyContract(
  'Azure Key Vault',
  async () => {
    const fake = await fakeKeyVault();
    return {
      keys: azureProvider(fake),
      reopen: async () => azureProvider(fake),
      secrets: [fake.token],
      close: () => fake.close(),
    };
  },
  { hasImpostor: false },
);
