import type { ObjectInfo, ObjectStorage } from './storage.ts';

/** A storage that sees only what lies below a prefix, under names without it. `prefix`: '' or plain segments. */
export function prefixed(inner: ObjectStorage, prefix: string): ObjectStorage {
  if (prefix === '') return inner;
  const at = (key: string): string => `${prefix}/${key}`;
  const { uploads, tiers, retention } = inner;
  return {
    description: `${inner.description} ${prefix}`,
    put: (key, body, options) => inner.put(at(key), body, options),
    get: (key, options) => inner.get(at(key), options),
    stat: async (key, options) => below(prefix, await inner.stat(at(key), options)),
    async *list(start, options) {
      for await (const info of inner.list(at(start), options))
        yield { ...info, key: strip(prefix, info.key) };
    },
    delete: (key, options) => inner.delete(at(key), options),
    // A handle names the whole key already.
    ...(uploads && {
      uploads: {
        limits: uploads.limits,
        begin: (key, options) => uploads.begin(at(key), options),
        putPart: (handle, part, body, options) => uploads.putPart(handle, part, body, options),
        parts: (handle, options) => uploads.parts(handle, options),
        complete: (handle, parts, options) => uploads.complete(handle, parts, options),
        abort: (handle, options) => uploads.abort(handle, options),
      },
    }),
    ...(tiers && {
      tiers: {
        state: (key, options) => tiers.state(at(key), options),
        thaw: (key, options) => tiers.thaw(at(key), options),
      },
    }),
    ...(retention && {
      retention: {
        retain: (key, until, options) => retention.retain(at(key), until, options),
        hold: (key, state, options) => retention.hold(at(key), state, options),
        state: (key, options) => retention.state(at(key), options),
      },
    }),
    close: async () => inner.close?.(),
  };
}

const strip = (prefix: string, key: string): string => key.slice(prefix.length + 1);

const below = (prefix: string, info: ObjectInfo | undefined): ObjectInfo | undefined =>
  info && { ...info, key: strip(prefix, info.key) };
