import { pathOf, REDIS, requireProgram, SSHD } from './debian-package.ts';

/**
 * Installs before the tests what they would otherwise install when they need it, within their time limits. Only where
 * all tests run. What cannot be installed is left to the tests that need it, which fail then.
 */
export async function setup(): Promise<void> {
  if (process.env.CARE_TESTS !== 'all') return;
  for (const program of [REDIS, SSHD]) {
    if (pathOf(program) !== undefined) continue;
    await requireProgram(program).catch((error: unknown) => console.log(String(error)));
  }
}
