import type pg from 'pg';
import { quoteIdent } from '../postgres/quote.ts';
import { selectRows } from '../postgres/rows.ts';
import type { BackupWarning } from '../types/backup.ts';
import type { GrantRecord, PolicyRecord } from '../types/contents.ts';
import { type Definitions, inSchema } from './ddl.ts';
import { execute } from './execute.ts';

/**
 * Row security, policies and grants as recorded, for the roles that the target has; a warning names the others. A
 * table whose policies all fall away keeps row security enabled: nothing becomes visible that was not. Rights that the
 * database gives by ALTER DEFAULT PRIVILEGES are taken back. The schema itself stays closed to all but its owner.
 */
export async function restoreAccess(client: pg.Client, definitions: Definitions): Promise<BackupWarning[]> {
  const { relations, sequences } = definitions.contents;
  await revokeDefaults(client, definitions);
  const roles = new Set(
    (await selectRows<{ name: string }>(client, 'SELECT rolname AS name FROM pg_catalog.pg_roles')).map(
      ({ name }) => name,
    ),
  );
  const warnings: BackupWarning[] = [];
  const missing = new Set<string>();
  const known = (role: string): boolean => {
    if (role === 'PUBLIC' || roles.has(role)) return true;
    missing.add(role);
    return false;
  };
  for (const relation of relations) {
    const table = inSchema(definitions, relation.name);
    for (const policy of relation.policies) {
      const to = policy.roles.filter(known);
      const doing = `Creating policy ${policy.name} on ${relation.name}`;
      if (to.length > 0) await execute(client, { sql: policySql(table, policy, to), doing });
      else {
        const message = `Policy ${policy.name} of ${relation.name} is left out: the target has none of its roles`;
        warnings.push({ code: 'POLICY_LEFT_OUT', message });
      }
    }
    if (relation.rowSecurity !== 'OFF') {
      const forced = relation.rowSecurity === 'FORCED' ? ', FORCE ROW LEVEL SECURITY' : '';
      const sql = `ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY${forced}`;
      await execute(client, { sql, doing: `Enabling row security of ${relation.name}` });
    }
    for (const grant of relation.grants.filter(({ grantee }) => known(grantee))) {
      if (grant.privilege === 'MAINTAIN' && definitions.serverVersion < 170_000) continue;
      await execute(client, { sql: grantSql(table, grant), doing: `Granting on ${relation.name}` });
    }
  }
  for (const { name, grants } of sequences) {
    const sequence = `SEQUENCE ${inSchema(definitions, name)}`;
    for (const grant of grants.filter(({ grantee }) => known(grantee))) {
      await execute(client, { sql: grantSql(sequence, grant), doing: `Granting on ${name}` });
    }
  }
  for (const role of [...missing].sort()) {
    const message = `Role ${role} is missing in the target: its policies and grants are left out`;
    warnings.push({ code: 'ROLE_MISSING', message });
  }
  return warnings;
}

const grantee = (role: string): string => (role === 'PUBLIC' ? 'PUBLIC' : quoteIdent(role));

function policySql(table: string, policy: PolicyRecord, roles: readonly string[]): string {
  const using = policy.using === null ? '' : ` USING (${policy.using})`;
  const check = policy.check === null ? '' : ` WITH CHECK (${policy.check})`;
  return (
    `CREATE POLICY ${quoteIdent(policy.name)} ON ${table} AS ${policy.permissive ? 'PERMISSIVE' : 'RESTRICTIVE'} ` +
    `FOR ${policy.command} TO ${roles.map(grantee).join(', ')}${using}${check}`
  );
}

function grantSql(table: string, grant: GrantRecord): string {
  const column = grant.column === null ? '' : ` (${quoteIdent(grant.column)})`;
  const option = grant.grantable ? ' WITH GRANT OPTION' : '';
  return `GRANT ${grant.privilege}${column} ON ${table} TO ${grantee(grant.grantee)}${option}`;
}

async function revokeDefaults(client: pg.Client, { schema }: Definitions): Promise<void> {
  const given = await selectRows<{ object: string; grantee: string }>(
    client,
    `SELECT DISTINCT x.object, CASE WHEN x.grantee = 0 THEN 'PUBLIC'
                                    ELSE quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS grantee
       FROM (
         SELECT 'SCHEMA ' || quote_ident(n.nspname) AS object, n.nspowner AS owner, a.grantee
           FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a WHERE n.nspname = $1
         UNION ALL
         SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || quote_ident(n.nspname) || '.' || quote_ident(c.relname),
                c.relowner, a.grantee
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
                pg_catalog.aclexplode(c.relacl) a
          WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'S')
       ) x WHERE x.grantee <> x.owner`,
    [schema],
  );
  for (const { object, grantee: role } of given) {
    await execute(client, {
      sql: `REVOKE ALL ON ${object} FROM ${role}`,
      doing: 'Revoking default privileges',
    });
  }
}
