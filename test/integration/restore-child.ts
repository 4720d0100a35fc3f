import { defineEntity } from '../../src/source/entity.ts';
import { request, silent, takeSnapshot, targetOn } from './restore-support.ts';

/**
 * Restores and kills itself, as `kill -9` does, at a step: `node restore-child.ts <url> <restoreId> <target> <step>`.
 * Steps: a phase; `renamed`, after the last act.
 */
const [url = '', restoreId = '', targetSchema = '', step = ''] = process.argv.slice(2);
const die = (): void => {
  process.kill(process.pid, 'SIGKILL');
};
const entities = [defineEntity({ type: 'ITEM', table: 'item', organization: 'organization_id' })];
const snapshot = await takeSnapshot(url, entities, { segmentBytes: 64 * 1024 });
const target = targetOn(url, {
  ...silent,
  info: (_fields, message) => {
    if (step === 'renamed' && message === 'restore finished') die();
  },
});
await target.restoreToSchema(
  request(snapshot, {
    restoreId,
    targetSchema,
    onProgress: ({ phase, records }) => {
      if (phase === step && (phase !== 'LOADING' || records > 3000)) die();
    },
  }),
);
