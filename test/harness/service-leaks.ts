import { inspect } from 'node:util';
import { expect } from 'vitest';
import type { Logger } from '../../src/types/logger.ts';

/** Collects everything that the library tells anybody, to look for what it must not tell. */
export class Told {
  readonly #texts: { readonly where: string; readonly text: string }[] = [];

  readonly logger: Logger = {
    debug: (fields, message) => this.add('log', fields, message),
    info: (fields, message) => this.add('log', fields, message),
    warn: (fields, message) => this.add('log', fields, message),
    error: (fields, message) => this.add('log', fields, message),
  };

  get count(): number {
    return this.#texts.length;
  }

  add(where: string, ...values: readonly unknown[]): void {
    for (const value of values) {
      this.#texts.push({ where, text: `${inspect(value, { depth: 20 })} ${JSON.stringify(value)}` });
    }
  }

  /** An error as a caller shows it: without `cause`, which is documented as unsafe, but with whatever walks its fields. */
  addError(error: unknown): void {
    expect(error).toBeInstanceOf(Error);
    if (!(error instanceof Error)) return;
    expect(Object.keys(error)).not.toContain('cause');
    this.add('error', error.message, error.stack, { ...error });
  }

  /** Fails with the places where one of the secrets was told. */
  expectNone(secrets: readonly string[]): void {
    const leaks = this.#texts.flatMap(({ where, text }) =>
      secrets
        .filter((secret) => text.includes(secret))
        .map((secret) => `${secret} in ${where}: ${text.slice(0, 300)}`),
    );
    expect(leaks).toEqual([]);
  }
}
