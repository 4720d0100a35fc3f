import { memoryStorage } from '../../src/storage/memory.ts';
import { type UploadsUnderTest, uploadsContract } from './uploads.ts';

/** What the tests of the memory of one process can mean by another client: the same one. */
function underTest(storage: ReturnType<typeof memoryStorage>): UploadsUnderTest {
  return { storage, reopen: async () => storage };
}

uploadsContract('memory', async () => underTest(memoryStorage()));

uploadsContract(
  'memory with the least size of a part',
  async () =>
    underTest(
      memoryStorage({
        uploadLimits: { minPartBytes: 5 * 1024 * 1024, maxPartBytes: 16 * 1024 * 1024, maxParts: 1_010 },
      }),
    ),
  { extent: 'SMALL' },
);
