import { startWriter, type Writer } from '../care-platform/generate.ts';
import { rowsOf, withClient } from './database.ts';

/** Changes visits, notes, clients, invoices of every organization, without a pause worth the name. */
export const startWriting = (url: string, seed: number): Promise<Writer> =>
  startWriter(url, { seed, intervalMs: 1 });

const WAIT_MS = 5_000;

/** How many changes the platform's own audit trail has of each organization since a moment, as the server tells time. */
async function changesSince(url: string, since: string, organizations: readonly string[]): Promise<number[]> {
  return withClient(url, async (client) => {
    const rows = await rowsOf<{ id: string; changes: string }>(
      client,
      `SELECT o.id::text AS id, count(l.id) AS changes FROM unnest($1::uuid[]) AS o(id)
         LEFT JOIN public.audit_log l ON l.organization_id = o.id AND l.changed_at > $2::timestamptz GROUP BY o.id`,
      [organizations, since],
    );
    return organizations.map((id) => Number(rows.find((row) => row.id === id)?.changes ?? 0));
  });
}

/** Waits until each organization has been changed since a moment; gives up after five seconds. */
export async function waitForChanges(
  url: string,
  since: string,
  organizations: readonly string[],
): Promise<number[]> {
  const deadline = Date.now() + WAIT_MS;
  for (;;) {
    const changes = await changesSince(url, since, organizations);
    if (changes.every((number) => number > 0) || Date.now() > deadline) return changes;
  }
}
