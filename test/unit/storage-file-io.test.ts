import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readExactly, writeAll } from '../../src/storage/file-io.ts';

/** A file that takes as many bytes of each call as `takes` says, in turn. */
function shortWriter(takes: readonly number[]) {
  const written: number[] = [];
  const calls: (readonly Uint8Array[])[] = [];
  const writev = async (views: readonly Uint8Array[]) => {
    const offered = views.flatMap((view) => [...view]);
    const taken = offered.slice(0, takes[calls.length % takes.length]);
    calls.push(views);
    written.push(...taken);
    return { bytesWritten: taken.length };
  };
  return { file: { writev: writev }, written, calls };
}

describe('writeAll', () => {
  it('stores all pieces in order, however short the writes are', async () => {
    const pieces = fc.array(fc.uint8Array({ maxLength: 9 }), { maxLength: 12 });
    const takes = fc.array(fc.integer({ min: 1, max: 15 }), { minLength: 1, maxLength: 5 });
    await fc.assert(
      fc.asyncProperty(pieces, takes, async (body, short) => {
        const { file, written } = shortWriter(short);
        await writeAll(file, body);
        expect(written).toEqual(body.flatMap((piece) => [...piece]));
      }),
    );
  });

  it('hands the caller’s own memory to the system, in bounded calls', async () => {
    const body = [
      new Uint8Array(20 * 1024 * 1024),
      ...Array.from({ length: 2_000 }, () => new Uint8Array(3)),
    ];
    const memories = new Set<ArrayBufferLike>(body.map((piece) => piece.buffer));
    let total = 0;
    const writev = async (views: readonly Uint8Array[]) => {
      const bytes = views.reduce((sum, view) => sum + view.byteLength, 0);
      expect(bytes).toBeLessThanOrEqual(8 * 1024 * 1024);
      expect(views.length).toBeLessThanOrEqual(1_024);
      for (const view of views) expect(memories.has(view.buffer)).toBe(true);
      total += bytes;
      return { bytesWritten: bytes };
    };
    await writeAll({ writev: writev }, body);
    expect(total).toBe(20 * 1024 * 1024 + 6_000);
  });

  it('rejects instead of turning for ever when nothing is written', async () => {
    const { file } = shortWriter([0]);
    await expect(writeAll(file, [new Uint8Array(3)])).rejects.toThrow('3 bytes');
  });

  it('rejects when a piece shrinks while it is stored', async () => {
    const doomed = new Uint8Array(100);
    const { file, calls } = shortWriter([10]);
    const shrinking = async (views: readonly Uint8Array[]) => {
      const answer = await file.writev(views);
      if (calls.length === 2) structuredClone(doomed.buffer, { transfer: [doomed.buffer] });
      return answer;
    };
    await expect(writeAll({ writev: shrinking }, [doomed])).rejects.toThrow('could not be written');
  });

  it('stops between two calls when it is aborted', async () => {
    const controller = new AbortController();
    const { file, calls } = shortWriter([1]);
    const aborting = async (views: readonly Uint8Array[]) => {
      if (calls.length === 2) controller.abort(new Error('enough'));
      return file.writev(views);
    };
    await expect(writeAll({ writev: aborting }, [new Uint8Array(9)], controller.signal)).rejects.toThrow(
      'enough',
    );
    expect(calls).toHaveLength(3);
  });
});

describe('readExactly', () => {
  function shortReader(content: Uint8Array, gives: readonly number[]) {
    let calls = 0;
    const read = async (into: Uint8Array, at: number, length: number, position: number) => {
      const given = Math.min(length, gives[calls % gives.length] ?? 0);
      calls += 1;
      const bytes = content.subarray(position, position + given);
      into.set(bytes, at);
      return { bytesRead: bytes.byteLength };
    };
    return { read: read };
  }

  it('gives exactly the range, however short the reads are', async () => {
    const content = Uint8Array.from({ length: 60 }, (_, index) => index);
    const gives = fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 5 });
    await fc.assert(
      fc.asyncProperty(gives, fc.nat(30), fc.nat(30), async (short, offset, length) => {
        const answer = await readExactly(shortReader(content, short), { offset, length });
        expect([...answer]).toEqual([...content.subarray(offset, offset + length)]);
      }),
    );
  });

  it('rejects when the file ends before the range does', async () => {
    const file = shortReader(new Uint8Array(10), [4]);
    await expect(readExactly(file, { offset: 0, length: 13 })).rejects.toThrow('ended 3 bytes early');
  });
});
