import { existsSync, realpathSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { isSupportedNode } from '../../src/runtime.ts';
import { run } from '../lib/run.ts';

export interface RefusingNode {
  /** The executable. */
  readonly node: string;
  readonly version: string;
  /** Code that makes this Node look like that version; empty where it is one. */
  readonly pretend: string;
}

/** Node versions that the library does not support: those on the PATH, and some that this Node pretends to be. */
export async function refusingNodes(): Promise<RefusingNode[]> {
  const onPath = (process.env.PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, 'node'))
    .filter((file) => existsSync(file));
  const real: RefusingNode[] = [];
  for (const node of new Set(onPath.map((file) => realpathSync(file)))) {
    const { stdout } = await run(node, ['-p', 'process.versions.node']);
    const version = stdout.trim();
    if (!isSupportedNode(version)) real.push({ node, version, pretend: '' });
  }
  const pretended = ['20.20.0', '22.14.0', '23.7.0'].map((version) => ({
    node: process.execPath,
    version,
    pretend: `Object.defineProperty(process.versions, 'node', { value: '${version}' });`,
  }));
  return [...real, ...pretended];
}
