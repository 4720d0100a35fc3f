import type { Contest } from './storage-contest.ts';
import { s3Contest } from './storage-raw-aws.ts';
import { azureContest } from './storage-raw-azure.ts';
import { googleContest } from './storage-raw-google.ts';
import { sftpContest } from './storage-raw-sftp.ts';

export const CONTESTS: Readonly<Record<string, () => Promise<Contest>>> = {
  AWS_S3: s3Contest,
  AZURE_BLOB: azureContest,
  GOOGLE_CLOUD_STORAGE: googleContest,
  SFTP: sftpContest,
};
