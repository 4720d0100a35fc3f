import { DataProtectionError, KeyError } from '../types/errors.ts';

/** After this many milliseconds a call to a key service is a failure. */
const KMS_TIMEOUT_MS = 10_000;

/** What an error of an SDK means. `code` is the service's own name for it: no text, no header, no key. */
interface Verdict {
  /** `CREDENTIAL`: the service does not know the credential (any more). `RETRY`: the same call may succeed later. */
  readonly kind: 'CREDENTIAL' | 'RETRY' | 'REFUSED';
  readonly code: string;
}

interface KmsSessionOptions<Client> {
  /** For messages. */
  readonly description: string;
  /** Opens a client with a credential of now. `expiresAt` in milliseconds since 1970. */
  open(): Promise<{ readonly client: Client; readonly expiresAt?: number | undefined }>;
  judge(error: unknown): Verdict;
  /** Frees what a client holds that was replaced, after its last call. */
  close?(client: Client): void;
  readonly timeoutMs?: number;
}

interface KmsSession<Client> {
  /** Throws `KEY_UNAVAILABLE`; `what` is the start of its message. */
  run<T>(what: string, call: (client: Client, signal: AbortSignal) => Promise<T>): Promise<T>;
}

/**
 * One client for all calls, opened at the first. It is opened again with a new credential when the old one expires, and
 * once more when the service refuses it; nothing else is repeated here. SDK errors hold headers and requests, so none
 * of them becomes a cause.
 */
export function kmsSession<Client>(options: KmsSessionOptions<Client>): KmsSession<Client> {
  const { description, open, judge, close, timeoutMs = KMS_TIMEOUT_MS } = options;
  interface Held {
    readonly opening: ReturnType<typeof open>;
    users: number;
  }
  let current: Held | undefined;

  async function acquire(): Promise<{ client: Client; held: Held }> {
    let renewed: Held | undefined;
    for (;;) {
      current ??= { opening: open(), users: 0 };
      const held = current;
      held.users += 1;
      try {
        const { client, expiresAt } = await held.opening;
        if (expiresAt === undefined || expiresAt > Date.now() || held === renewed) return { client, held };
      } catch (error) {
        if (current === held) current = undefined;
        throw error;
      }
      if (current === held) {
        renewed = { opening: open(), users: 0 };
        current = renewed;
      }
      await release(held);
    }
  }

  async function release(held: Held): Promise<void> {
    held.users -= 1;
    if (held.users > 0 || held === current) return;
    close?.((await held.opening).client);
  }

  async function attempt<T>(
    call: (client: Client, signal: AbortSignal) => Promise<T>,
    signal: AbortSignal,
    refusals: number,
  ): Promise<T> {
    const { client, held } = await acquire();
    try {
      return await call(client, signal);
    } catch (error) {
      if (error instanceof DataProtectionError || judge(error).kind !== 'CREDENTIAL' || refusals > 0)
        throw error;
      if (current === held) current = undefined;
    } finally {
      await release(held);
    }
    return attempt(call, signal, refusals + 1);
  }

  return {
    async run(what, call) {
      const controller = new AbortController();
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => {
          const seconds = timeoutMs / 1000;
          const message = `${what}: ${description} did not answer within ${seconds} s.`;
          reject(new KeyError(message, 'KEY_UNAVAILABLE', { retryable: true }));
          controller.abort();
        }, timeoutMs);
      });
      try {
        return await Promise.race([attempt(call, controller.signal, 0), late]);
      } catch (error) {
        if (error instanceof DataProtectionError) throw error;
        const { kind, code } = judge(error);
        throw new KeyError(`${what}: ${description} answered ${plain(code)}.`, 'KEY_UNAVAILABLE', {
          retryable: kind === 'RETRY',
        });
      } finally {
        clearTimeout(timer);
      }
    },
  };
}

function plain(code: string): string {
  return /^[A-Za-z0-9_. -]{1,80}$/.test(code) ? code : 'an error without a code';
}
