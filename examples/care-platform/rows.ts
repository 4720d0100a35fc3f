/**
 * What the platform's rows contain, as SQL: each value is an expression of the seed and the row's number `n`, so
 * that the server computes the rows itself, in any order and on any number of connections, always the same.
 */
import { createHash } from 'node:crypto';
import pg from 'pg';
import { type IdKind, idPrefix, type OrganizationTable, rowsPerOrganization } from './ids.ts';
import {
  ACTIONS,
  AWKWARD,
  CITIES,
  CLOSINGS,
  DIAGNOSES,
  EVV_METHODS,
  FIRST_NAMES,
  LANGUAGES,
  LAST_NAMES,
  OBSERVATIONS,
  STATES,
  STREETS,
  VISIT_STATUSES,
} from './words.ts';

/** Stands before the first number of a key that counts, so that a second platform fits beside a first. */
export type FirstKeys = Record<
  'tasks' | 'evv_records' | 'invoices' | 'payroll' | 'audit_log' | 'caregivers',
  number
>;

interface Scope {
  seed: number;
  organization: number;
  counts: ReturnType<typeof rowsPerOrganization>;
  firstKeys: FirstKeys;
}

const text = pg.escapeLiteral;
const array = (values: readonly string[]) => `ARRAY[${values.map(text).join(',')}]`;

/** `count` bits of the row's hash, from bit `from` on, as a number from 0. */
const bits = (hash: string, from: number, count: number) => `((${hash} >> ${from}) & ${2 ** count - 1})::int`;
const pick = (values: readonly string[], index: string) =>
  `(${array(values)})[1 + (${index}) % ${values.length}]`;
const minutes = (count: string) => `(${count}) * interval '1 minute'`;

function uuid(scope: Scope, kind: IdKind, n: string): string {
  const digest = `md5(${text(idPrefix(scope.seed, kind, scope.organization))} || ${n})`;
  return `overlay(overlay(${digest} placing '8' from 13 for 1) placing 'a' from 17 for 1)::uuid`;
}

const organizationOf = (scope: Scope) => `(${uuid(scope, 'organization', "'1'")})`;

/** The row's 64-bit hash. A purpose of its own for each independent set of values. */
function hash(scope: Scope, purpose: string, n: string): string {
  const digest = createHash('md5').update(`${scope.seed}/${scope.organization}/${purpose}`).digest();
  return `hashint8extended(${n}, ${text(String(digest.readBigInt64BE()))}::bigint)`;
}

/** Rows numbered $1 to $2 with their hashes h1 and h2. OFFSET 0 keeps the planner from computing them per use. */
function numbered(scope: Scope, purpose: string): string {
  return `(SELECT n, ${hash(scope, `${purpose}/1`, 'n')} AS h1, ${hash(scope, `${purpose}/2`, 'n')} AS h2
    FROM generate_series($1::bigint, $2::bigint) AS n OFFSET 0) AS r`;
}

/** Like `numbered`, with all that a visit decides for rows that belong to it; `visit` is the visit's number. */
function ofVisit(scope: Scope, purpose: string, visit: string): string {
  const { branches, clients, caregivers } = scope.counts;
  return `(SELECT *, (client - 1) % ${branches} + 1 AS branch,
      (client - 1) % ${branches} + 1 + ${branches} * (${bits('v2', 0, 16)} % ${caregivers / branches}) AS caregiver,
      timestamptz '2025-01-01 00:00:00+00' + ${minutes(`${bits('v2', 16, 20)} % 51840 * 15`)} AS starts,
      ${minutes(`15 * (2 + ${bits('v2', 40, 5)})`)} AS lasts
    FROM (SELECT *, 1 + ((v1 & 1073741823) % ${clients})::int AS client
      FROM (SELECT *, ${hash(scope, 'visits/1', 'v')} AS v1, ${hash(scope, 'visits/2', 'v')} AS v2
        FROM (SELECT *, ${visit} AS v FROM ${numbered(scope, purpose)}) a OFFSET 0) b OFFSET 0) c OFFSET 0) AS r`;
}

const address = (h: string, at: number) =>
  `ROW((1 + ${bits(h, at, 12)}) || ' ' || ${pick(STREETS, bits(h, at + 12, 3))},
    CASE ${bits(h, at + 15, 2)} WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN 'Apt "' || ${bits(h, at + 3, 5)} || '"'
      ELSE 'Unit ' || ${bits(h, at + 3, 5)} || ', rear (b)' END,
    ${pick(CITIES, bits(h, at + 17, 3))}, ${pick(STATES, bits(h, at + 20, 2))},
    lpad((${bits(h, at, 16)})::text, 5, '0'))::postal_address`;

const phone = (h: string, at: number) => `'+1' || (2000000000 + ((${h} >> ${at}) & 4294967295))`;
const stamped = (at: string, h: string) => `${at}, ${at} + ${minutes(bits(h, 30, 14))}`;
const softDelete = (at: string, h: string) =>
  `CASE WHEN ${bits(h, 55, 6)} = 0 THEN ${at} + interval '300 days 1 microsecond' END`;
const bytes = (blocks: string) =>
  `(SELECT string_agg(sha256(convert_to(n || ':' || h1 || ':' || block, 'UTF8')), ''::bytea ORDER BY block)
    FROM generate_series(1, ${blocks}) AS block)`;
const awkward = (value: string, h: string, at: number) =>
  `(${value} || CASE WHEN ${bits(h, at, 3)} = 0 THEN ${pick(AWKWARD, bits(h, at + 3, 4))} ELSE '' END)`;

/** The shared rows, which belong to no organization and do not depend on the seed. */
export const SERVICE_CODES = `
  INSERT INTO service_codes
  SELECT (ARRAY['T1019','S5125','S9122','T1005'])[1 + n % 4] || '-' || lpad(n::text, 2, '0'),
    'Service ' || n || (ARRAY['', E'\\ttab', ' "quoted"', ' 💊'])[1 + n % 4], (ARRAY[15, 30, 60])[1 + n % 3],
    18 + n * 0.75, CASE WHEN n % 3 = 0 THEN '{}' ELSE ARRAY['U' || n, 'TT, "x"'] END,
    daterange('2020-01-01', CASE WHEN n % 2 = 0 THEN date '2030-01-01' END),
    CASE WHEN n % 5 = 0 THEN date '2030-01-01' ELSE 'infinity' END, timestamptz '2024-12-01 00:00:00+00'
  FROM generate_series(1, 24) AS n
  ON CONFLICT DO NOTHING`;
const serviceCode = (index: string) =>
  `(SELECT (ARRAY['T1019','S5125','S9122','T1005'])[1 + x % 4] || '-' || lpad(x::text, 2, '0')
    FROM (SELECT 1 + (${index}) % 24 AS x) AS c)`;

type Insert = (scope: Scope) => string;

const organizations: Insert = (scope) => `
  INSERT INTO organizations
  SELECT ${organizationOf(scope)}, 'Care Commons ' || ${scope.organization}
    || ${text(AWKWARD[scope.organization % AWKWARD.length] ?? '')},
    'care-' || ${scope.seed} || '-' || ${scope.organization}, '59-' || ${bits('h1', 0, 20)},
    ${address('h1', 20)},
    ${pick(['America/New_York', 'America/Chicago', 'Pacific/Honolulu'], bits('h2', 0, 8))},
    ('{"retention":{"days":' || ${bits('h2', 8, 8)}
    || '},"features":["evv","billing"],"empty":{},"none":null}')::jsonb,
    ${stamped("timestamptz '2024-01-01 00:00:00+00'", 'h2')}, NULL
  FROM ${numbered(scope, 'organizations')}`;

const branches: Insert = (scope) => `
  INSERT INTO branches
  SELECT ${uuid(scope, 'branch', 'n')}, ${organizationOf(scope)}, ${pick(CITIES, 'n::int')} || ' #' || n,
    ${phone('h1', 0)},
    ${address('h2', 0)}, CASE WHEN n % 3 = 0 THEN '{}' ELSE ARRAY[${bits('h1', 32, 8)}, NULL,
    ${bits('h1', 40, 8)}] END,
    CASE WHEN n % 4 = 0 THEN 'null'::jsonb WHEN n % 4 = 1 THEN NULL
    ELSE '{"mon":["08:00","17:30"],"sun":[]}' END,
    ${stamped("timestamptz '2024-02-01 00:00:00+00'", 'h2')}
  FROM ${numbered(scope, 'branches')}`;

const users: Insert = (scope) => `
  INSERT INTO users
  SELECT ${uuid(scope, 'user', 'n')}, ${organizationOf(scope)},
    CASE WHEN n > ${scope.counts.branches} THEN ${uuid(scope, 'branch', `((n - 1) % ${scope.counts.branches} + 1)`)} END,
    'User.' || n || '@Example-' || ${scope.organization} || '.org', ${pick(FIRST_NAMES, bits('h1', 0, 4))}
    || ' ' || ${pick(LAST_NAMES, bits('h1', 4, 4))},
    CASE n % 3 WHEN 0 THEN ARRAY['ADMIN','backup:admin'] WHEN 1 THEN ARRAY['COORDINATOR'] ELSE '{}' END,
    ${bytes('2')},
    CASE WHEN n % 4 = 0 THEN '2001:db8::'::inet + ${bits('h1', 8, 16)}
    WHEN n % 4 < 3 THEN '10.0.0.0'::inet + ${bits('h1', 8, 16)} END,
    CASE n % 5 WHEN 0 THEN NULL WHEN 1 THEN timestamptz '-infinity'
    ELSE timestamptz '2025-06-01 08:00:00.123456+00' + ${minutes(bits('h2', 0, 16))} END,
    CASE WHEN n % 2 = 0 THEN '{"theme":"dark","zoom":1.10}'::jsonb END,
    ${stamped("timestamptz '2024-03-01 00:00:00+00'", 'h2')},
    ${softDelete("timestamptz '2024-03-01 00:00:00+00'", 'h2')}
  FROM ${numbered(scope, 'users')}`;

const caregivers: Insert = (scope) => `
  INSERT INTO caregivers
  SELECT ${uuid(scope, 'caregiver', 'n')}, ${organizationOf(scope)},
    ${uuid(scope, 'branch', `((n - 1) % ${scope.counts.branches} + 1)`)},
    ${scope.firstKeys.caregivers + (scope.organization - 1) * scope.counts.caregivers} + n,
    ${pick(FIRST_NAMES, bits('h1', 0, 4))}, ${pick(LAST_NAMES, bits('h1', 4, 4))},
    ${phone('h1', 8)}, CASE WHEN n % 6 > 0 THEN 'caregiver' || n || '@example.net' END,
    CASE WHEN n % 7 > 0 THEN ${address('h2', 0)} END,
    12 + ${bits('h2', 24, 11)} / 100.0, ARRAY['en']
      || CASE WHEN n % 2 = 0 THEN ${pick(LANGUAGES, bits('h2', 35, 8))} END,
    ('[{"name":"CNA","number":"' || ${bits('h1', 40, 20)} || '","expires":"2027-0' || 1 + n % 9
    || '-01"}]')::jsonb,
    CASE n % 4 WHEN 0 THEN '{}'::tstzmultirange
      WHEN 1 THEN tstzmultirange(tstzrange(t, t + interval '2 days'), tstzrange(t + interval '30 days',
      t + interval '31 days', '(]'))
      WHEN 2 THEN tstzmultirange(tstzrange(NULL, t)) ELSE tstzmultirange(tstzrange(t, 'infinity'),
      tstzrange(t - interval '9 days', t - interval '8 days')) END,
    date '2015-01-01' + ${bits('h1', 44, 11)}, CASE WHEN n % 11 = 0 THEN date '2026-05-31' ELSE 'infinity' END,
    ${stamped("timestamptz '2024-03-01 00:00:00+00'", 'h2')},
    ${softDelete("timestamptz '2024-03-01 00:00:00+00'", 'h2')}
  FROM (SELECT *, timestamptz '2025-03-01 00:00:00+00' + ${minutes(bits('h2', 43, 18))} AS t
    FROM ${numbered(scope, 'caregivers')} OFFSET 0) AS r`;

/** Clients and care plans refer to each other: one statement, for foreign keys are checked at its end. */
const clients: Insert = (scope) => {
  const { branches: perBranch, clients: count, care_plans: plans } = scope.counts;
  const branch = uuid(scope, 'branch', `((n - 1) % ${perBranch} + 1)`);
  const created = `timestamptz '2024-06-01 00:00:00+00' + ${minutes(bits('h1', 20, 18))}`;
  return `
  WITH client AS (INSERT INTO clients (id, organization_id, branch_id, client_number, first_name, last_name,
      date_of_birth, ssn_last4, phone, email, address, previous_addresses, diagnoses, preferences, service_period, photo, primary_care_plan_id,
      created_at, updated_at, deleted_at)
    SELECT ${uuid(scope, 'client', 'n')}, ${organizationOf(scope)}, ${branch}, 'C-' || lpad(n::text, 7, '0'),
      ${pick(FIRST_NAMES, bits('h1', 0, 4))}, ${awkward(pick(LAST_NAMES, bits('h1', 4, 4)), 'h1', 8)},
      date '1920-01-01' + ${bits('h1', 15, 14)},
      CASE WHEN n % 5 > 0 THEN lpad(${bits('h2', 0, 13)}::text, 4, '0') END,
      CASE WHEN n % 9 > 0 THEN ${phone('h2', 8)} END,
      CASE WHEN n % 3 = 0 THEN 'client' || n || '@example.com' END, ${address('h2', 16)},
      CASE n % 4 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY[${address('h1', 10)}, NULL, ${address('h1', 30)}] END,
      CASE WHEN n % 6 = 0 THEN '{}' ELSE ARRAY[${pick(DIAGNOSES, bits('h1', 30, 3))},
      ${pick(DIAGNOSES, bits('h1', 33, 3))}] END,
      CASE n % 5 WHEN 0 THEN NULL WHEN 1 THEN 'null'::jsonb WHEN 2 THEN '""'::jsonb
        ELSE ('{"pets":["cat \\"Tom\\"","犬"],"diet":"low\\nsalt","ratio":0.12345678901234567890123456789012345678' || n || '}')::jsonb END,
      CASE n % 4 WHEN 0 THEN daterange('2024-01-01', NULL) WHEN 1 THEN 'empty'::daterange
      WHEN 2 THEN daterange('2024-01-01', 'infinity') ELSE daterange('2024-01-01', '2026-01-01', '[]') END,
      CASE n % 5 WHEN 0 THEN ${bytes('12')} WHEN 1 THEN ''::bytea WHEN 2 THEN '\\x00ff5c0a0d0900'::bytea END,
      CASE WHEN n % 9 = 0 THEN NULL
      WHEN n % 4 = 0 AND n + ${count} <= ${plans} THEN ${uuid(scope, 'care_plan', `(n + ${count})`)}
      ELSE ${uuid(scope, 'care_plan', 'n')} END,
      ${stamped(created, 'h2')}, ${softDelete(created, 'h2')}
    FROM ${numbered(scope, 'clients')} WHERE n <= ${count})
  INSERT INTO care_plans
  SELECT ${uuid(scope, 'care_plan', 'n')}, ${organizationOf(scope)},
    ${uuid(scope, 'branch', `(((n - 1) % ${count}) % ${perBranch} + 1)`)},
    ${uuid(scope, 'client', `((n - 1) % ${count} + 1)`)}, ${awkward("'Plan of care ' || n", 'h1', 0)},
    daterange(d, CASE WHEN n % 3 > 0 THEN d + 180 END), ${bits('h1', 18, 8)} / 2.0, CASE n % 7 WHEN 0 THEN 'NaN'
    WHEN 1 THEN NULL WHEN 2 THEN 1.10 ELSE (h1 / 3.00000000000000000000000000000000001) END,
    ('[{"goal":"' || ${pick(['bathe', 'walk 200 ft', 'gain 2 lb'], bits('h1', 26, 8))} || '","met":'
    || (n % 2 = 0) || '},null]')::jsonb,
    CASE n % 8 WHEN 0 THEN NULL WHEN 1 THEN 'infinity' ELSE d + timetz '09:30:00-05' END,
    ${stamped(created, 'h2')}, ${softDelete(created, 'h2')}
  FROM (SELECT *, date '2024-06-01' + ${bits('h1', 10, 9)} AS d
    FROM ${numbered(scope, 'care_plans')} OFFSET 0) AS r`;
};

const tasks: Insert = (scope) => {
  const { branches: perBranch, clients: count, caregivers: staff, care_plans: plans } = scope.counts;
  const branch = `((plan - 1) % ${count}) % ${perBranch} + 1`;
  return `
  INSERT INTO tasks
  SELECT ${scope.firstKeys.tasks + (scope.organization - 1) * scope.counts.tasks} + n,
    ${uuid(scope, 'care_plan', 'plan')},
    CASE WHEN n % 4 > 0 THEN ${uuid(scope, 'caregiver', `(${branch} + ${perBranch} * (${bits('h1', 0, 16)} % ${staff / perBranch}))`)} END,
    ${pick(ACTIONS, bits('h1', 16, 4))}, CASE n % 5 WHEN 0 THEN NULL WHEN 1 THEN ''
    ELSE ${awkward(pick(OBSERVATIONS, bits('h1', 20, 4)), 'h1', 24)} END,
    (ARRAY['OPEN','DONE','NOT DONE'])[1 + n % 3]::task_state, 1 + ${bits('h1', 32, 8)} % 5,
    CASE n % 10 WHEN 0 THEN 'infinity' WHEN 1 THEN NULL ELSE date '2025-01-01' + ${bits('h1', 40, 9)} END,
    CASE WHEN n % 3 > 0 THEN time '06:00' + ${minutes(`${bits('h1', 49, 10)} % 960`)} END,
    CASE n % 4 WHEN 0 THEN interval '1 day' WHEN 1 THEN interval '1 year 2 mons -3 days +04:05:06.789'
    WHEN 2 THEN interval '-00:00:00.000001' END,
    timestamptz '2025-01-01 00:00:00+00' + ${minutes(bits('h2', 0, 18))}
  FROM (SELECT *, (n - 1) % ${plans} + 1 AS plan FROM ${numbered(scope, 'tasks')}) AS r`;
};

const visits: Insert = (scope) => `
  INSERT INTO visits (id, organization_id, branch_id, client_id, caregiver_id, service_code, status, scheduled,
    actual_start, actual_end, amount, notes, tags, details, created_at, updated_at, deleted_at)
  SELECT ${uuid(scope, 'visit', 'n')}, ${organizationOf(scope)}, ${uuid(scope, 'branch', 'branch')},
    ${uuid(scope, 'client', 'client')},
    CASE WHEN n % 50 > 0 THEN ${uuid(scope, 'caregiver', 'caregiver')} END, ${serviceCode(bits('h1', 0, 8))},
    status::visit_status,
    tstzrange(starts, starts + lasts), CASE WHEN came THEN starts + ${minutes(`${bits('h1', 8, 4)} - 8`)} END,
    CASE WHEN came THEN starts + lasts + ${bits('h1', 12, 10)} * interval '1.000001 second' END,
    CASE WHEN came THEN 20 + ${bits('h1', 8, 14)} / 100.0 END,
    CASE WHEN n % 40 = 0 THEN NULL WHEN n % 40 = 1 THEN '' ELSE ${awkward(
      `'Visit ' || n || ': ' || ${pick(OBSERVATIONS, bits('h1', 22, 4))} || ' BP ' || 100 + ${bits('h1', 26, 6)}
      || '/' || 60 + ${bits('h1', 32, 5)}
      || ', pulse ' || 55 + ${bits('h1', 37, 6)} || ', temp ' || 97 + ${bits('h1', 43, 5)} * 0.1 || '. '
      || ${pick(ACTIONS, bits('h1', 48, 4))} || ' ' || ${pick(CLOSINGS, bits('h1', 52, 3))}`,
      'h2',
      0,
    )} END,
    CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN ARRAY['weekend', 'needs "lift"']
    ELSE ARRAY['first visit', '', NULL, 'a\\b,{c}'] END,
    CASE WHEN n % 60 = 0 THEN NULL WHEN n % 60 = 1 THEN 'null'::jsonb ELSE ('{"source":"' || ${pick(
      ['mobile', 'web', 'import "csv"', 'phone 📞'].map((s) => s.replaceAll('"', '\\"')),
      bits('h2', 7, 2),
    )}
      || '","mileage":' || ${bits('h2', 9, 12)} * 0.015625 || ',"rating":' || ${bits('h2', 21, 3)}
      || ',"vitals":{"spo2":' || 90 + ${bits('h2', 24, 3)} || ',"weightKg":' || ${bits('h2', 27, 10)} * 0.1
      || '},"tasks":["' || ${bits('h2', 37, 16)} || '","' || ${bits('h2', 43, 16)}
      || '"],"app":"4.2.1","signed":' || (n % 3 = 0) || '}')::jsonb END,
    ${stamped("starts - interval '10 days 00:00:00.000321'", 'h2')}, ${softDelete('starts', 'h2')}
  FROM (SELECT *, status IN ('IN PROGRESS', 'COMPLETED') AS came FROM (SELECT *,
    CASE WHEN n % 2 = 1 THEN 'COMPLETED' ELSE ${pick(VISIT_STATUSES, bits('h2', 50, 5))} END AS status
    FROM ${ofVisit(scope, 'visit', 'n')} OFFSET 0) s OFFSET 0) AS r`;

/** One for every visit with an odd number: those are all completed. */
const evvRecords: Insert = (scope) => `
  INSERT INTO evv_records (id, organization_id, branch_id, visit_id, client_id, caregiver_id, method,
    clock_in_at, clock_out_at, latitude, longitude, accuracy, verified, device_payload, created_at, updated_at)
  OVERRIDING SYSTEM VALUE
  SELECT ${scope.firstKeys.evv_records + (scope.organization - 1) * scope.counts.evv_records} + n,
    ${organizationOf(scope)}, ${uuid(scope, 'branch', 'branch')}, ${uuid(scope, 'visit', 'v')},
    ${uuid(scope, 'client', 'client')},
    ${uuid(scope, 'caregiver', 'caregiver')}, ${pick(EVV_METHODS, bits('h1', 0, 2))}::evv_method,
    starts + ${bits('h1', 2, 10)} * interval '1.003 second',
    CASE WHEN n % 20 > 0 THEN starts + lasts + ${bits('h1', 12, 10)} * interval '0.777 second' END,
    25 + ${bits('h1', 22, 30)} / 1e9::float8, -80 - ${bits('h2', 0, 30)} / 3e9::float8,
    CASE n % 9 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' WHEN 2 THEN '-0' ELSE ${bits('h2', 30, 12)} / 7.0::float4 END,
    n % 3 > 0, CASE WHEN n % 2 = 0 THEN ('{"app": "4.' || n % 10 || '",  "battery": ' || ${bits('h2', 42, 6)}
    || ', "app": "dup\\u00e9"}')::json END,
    ${stamped("starts + interval '1 minute'", 'h2')}
  FROM ${ofVisit(scope, 'evv', '(2 * n - 1)')}`;

const noteTime = (n: string) =>
  `CASE ${n} % 1000 WHEN 7 THEN timestamptz '0044-03-15 12:00:00+00 BC' + ${minutes(n)} WHEN 11 THEN 'infinity'
  WHEN 13 THEN timestamptz '2031-01-01 00:00:00+00' + ${minutes(n)}
    ELSE starts + lasts + ${n} % 1000 * interval '1 microsecond' END`;
const noteVisit = (scope: Scope, n: string) => `((${n} * 10 - 1) % ${scope.counts.visits} + 1)`;

const notes: Insert = (scope) => `
  INSERT INTO notes
  SELECT ${uuid(scope, 'note', 'n')}, created, ${organizationOf(scope)}, ${uuid(scope, 'branch', 'branch')},
    ${uuid(scope, 'client', 'client')},
    CASE WHEN n % 9 > 0 THEN ${uuid(scope, 'caregiver', 'caregiver')} END,
    CASE WHEN n % 7 > 0 THEN ${uuid(scope, 'visit', 'v')} END,
    ${pick(['PROGRESS', 'INCIDENT', 'CALL', 'FAMILY'], bits('h1', 0, 2))},
    CASE WHEN n % 30 = 0 THEN ''
    ELSE ${awkward(`${pick(OBSERVATIONS, bits('h1', 2, 4))} || E'\\n' || ${pick(ACTIONS, bits('h1', 6, 4))} || ' ' || ${pick(CLOSINGS, bits('h1', 10, 3))}`, 'h1', 13)} END,
    CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN '{"mood":"☀️","a":[1,2.50,-0.0]}'::jsonb ELSE ('{"words":'
    || ${bits('h1', 20, 8)} || '}')::jsonb END,
    starts + ${minutes(bits('h2', 0, 14))}
  FROM (SELECT *, ${noteTime('n')} AS created
    FROM ${ofVisit(scope, 'notes', noteVisit(scope, 'n'))} OFFSET 0) AS r`;

/** A document is about the n-th note's visit; it hangs on that note or only on the people. */
const documents: Insert = (scope) => `
  INSERT INTO documents (id, organization_id, branch_id, client_id, caregiver_id, note_id, note_created_at,
    file_name, mime_type, dated_on, content, created_at, updated_at, deleted_at)
  SELECT ${uuid(scope, 'document', 'n')}, ${organizationOf(scope)}, ${uuid(scope, 'branch', 'branch')},
    CASE WHEN n % 5 > 0 THEN ${uuid(scope, 'client', 'client')} END,
    CASE WHEN n % 5 = 0 THEN ${uuid(scope, 'caregiver', 'caregiver')} END,
    CASE WHEN noted THEN ${uuid(scope, 'note', 'n')} END, CASE WHEN noted THEN ${noteTime('n')} END,
    ${awkward("'Plan of care ' || n || '.pdf'", 'h1', 0)}, 'application/pdf',
    CASE n % 50 WHEN 3 THEN date '0044-03-15 BC' WHEN 4 THEN '-infinity' WHEN 5 THEN NULL
    ELSE date '2024-01-01' + ${bits('h1', 8, 9)} END,
    CASE n % 10 WHEN 0 THEN NULL WHEN 1 THEN ''::bytea ELSE '\\x255044462d312e370a005cff'::bytea
    || ${bytes(`1 + ${bits('h1', 17, 5)}`)} END,
    ${stamped("timestamptz '2025-01-05 00:00:00+00'", 'h2')},
    ${softDelete("timestamptz '2025-01-05 00:00:00+00'", 'h2')}
  FROM (SELECT *, n % 3 = 0 AND n <= ${scope.counts.notes} AS noted
    FROM ${ofVisit(scope, 'documents', noteVisit(scope, 'n'))} OFFSET 0) AS r`;

/** What an invoice is about, from its number `invoice`: its payments need the same. */
const invoiced = (scope: Scope, invoice: string) => ({
  id: `${scope.firstKeys.invoices + (scope.organization - 1) * scope.counts.invoices} + ${invoice}`,
  branch: uuid(
    scope,
    'branch',
    `(((${invoice} - 1) % ${scope.counts.clients}) % ${scope.counts.branches} + 1)`,
  ),
  client: uuid(scope, 'client', `((${invoice} - 1) % ${scope.counts.clients} + 1)`),
});

const invoices: Insert = (scope) => {
  const { id, branch, client } = invoiced(scope, 'n');
  return `
  INSERT INTO invoices (id, organization_id, branch_id, client_id, invoice_number, status, billing_period,
    issued_on, due_on, lines, exchange_rate, subtotal, tax, created_at, updated_at)
  SELECT ${id}, ${organizationOf(scope)}, ${branch}, ${client}, 'INV-' || lpad(n::text, 8, '0'),
    (ARRAY['DRAFT','SENT','PAID','VOID'])[1 + ${bits('h1', 0, 2)}]::invoice_status,
    daterange(d - 14, d), d, CASE WHEN n % 6 > 0 THEN d + 30 END, ('[{"code":"T1019","units":'
    || ${bits('h1', 2, 7)} || ',"rate":5.50},{"code":"S5125","units":' || ${bits('h1', 9, 7)}
    || ',"rate":4.2500}]')::jsonb,
    CASE n % 6 WHEN 0 THEN NULL WHEN 1 THEN 'NaN' WHEN 2 THEN 1.000
    ELSE (1 + abs(h2)::numeric / 7777777777777777777777777777777777) END, 50 + ${bits('h1', 16, 18)} / 100.0,
    ${bits('h1', 34, 10)} / 100.0,
    ${stamped("d::timestamp AT TIME ZONE 'UTC'", 'h2')}
  FROM (SELECT *, date '2025-01-15' + 14 * (${bits('h1', 44, 8)} % 38) AS d
    FROM ${numbered(scope, 'invoices')} OFFSET 0) AS r`;
};

/** One payment for four invoices in five; the first of each five is paid in two installments. */
const payments: Insert = (scope) => {
  const { id, branch, client } = invoiced(scope, 'n');
  return `
  INSERT INTO payments
  SELECT ${id}, installment, ${organizationOf(scope)}, ${branch}, ${client}, ${bits('h1', 0, 18)} / 100.0,
    ${pick(['MEDICAID', 'INSURANCE', 'CARD', 'CHECK'], bits('h1', 18, 2))},
    CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'ref\\' || ${bits('h1', 20, 24)} END,
    CASE WHEN n % 6 = 0 THEN ${bytes('1')} END,
    timestamptz '2025-02-01 12:00:00+00' + ${minutes(bits('h2', 0, 19))},
    timestamptz '2025-02-01 12:00:00+00' + ${minutes(bits('h2', 0, 19))} + installment * interval '1 day'
  FROM ${numbered(scope, 'payments')}, generate_series(1, CASE n % 5 WHEN 0 THEN 0 WHEN 1 THEN 2
  ELSE 1 END) AS installment`;
};

const payroll: Insert = (scope) => `
  INSERT INTO payroll (id, organization_id, branch_id, caregiver_id, period, hours, gross, withheld, deductions,
    paid_at, updated_at)
  OVERRIDING SYSTEM VALUE
  SELECT ${scope.firstKeys.payroll + (scope.organization - 1) * scope.counts.payroll} + n,
    ${organizationOf(scope)},
    ${uuid(scope, 'branch', `((n - 1) % ${scope.counts.caregivers} % ${scope.counts.branches} + 1)`)},
    ${uuid(scope, 'caregiver', `((n - 1) % ${scope.counts.caregivers} + 1)`)}, daterange(d, d + 14),
    ${bits('h1', 0, 13)} / 100.0, 1000 + ${bits('h1', 13, 18)} / 100.0, ${bits('h1', 31, 16)} / 100.0,
    CASE WHEN n % 3 > 0 THEN ('{"fica":' || ${bits('h1', 47, 12)} * 0.01 || ',"garnishment":null}')::jsonb END,
    CASE WHEN n % 8 > 0 THEN (d + time '12:00') AT TIME ZONE 'UTC' + interval '16 days' END,
    (d + time '13:00') AT TIME ZONE 'UTC' + interval '16 days'
  FROM (SELECT *, date '2025-01-06' + 14 * ((n - 1) / ${scope.counts.caregivers})::int AS d
    FROM ${numbered(scope, 'payroll')} OFFSET 0) AS r`;

const auditLog: Insert = (scope) => `
  INSERT INTO audit_log OVERRIDING SYSTEM VALUE
  SELECT ${scope.firstKeys.audit_log + (scope.organization - 1) * scope.counts.audit_log} + n,
    ${organizationOf(scope)}, ${uuid(scope, 'branch', 'branch')}, 'visits',
    (${uuid(scope, 'visit', 'v')})::text,
    CASE n % 3 WHEN 0 THEN 'INSERT' ELSE 'UPDATE' END,
    CASE WHEN n % 4 > 0 THEN (${uuid(scope, 'user', '1')})::text END,
    starts - interval '3 days' + n * interval '1 microsecond',
    CASE WHEN n % 3 > 0 THEN '{"status":"SCHEDULED"}'::jsonb END, ('{"status":"COMPLETED","notes":"'
    || ${bits('h1', 0, 30)} || '\\tok"}')::jsonb
  FROM ${ofVisit(scope, 'audit', noteVisit(scope, 'n'))}`;

/**
 * The tables in an order that foreign keys allow; within one group the order does not matter. Clients bring the
 * care plans along.
 */
const GROUPS: readonly (readonly { table: OrganizationTable; insert: Insert }[])[] = [
  [{ table: 'organizations', insert: organizations }],
  [{ table: 'branches', insert: branches }],
  [
    { table: 'users', insert: users },
    { table: 'caregivers', insert: caregivers },
    { table: 'clients', insert: clients },
  ],
  [
    { table: 'visits', insert: visits },
    { table: 'tasks', insert: tasks },
    { table: 'invoices', insert: invoices },
    { table: 'payroll', insert: payroll },
  ],
  [
    { table: 'evv_records', insert: evvRecords },
    { table: 'notes', insert: notes },
    { table: 'payments', insert: payments },
    { table: 'audit_log', insert: auditLog },
  ],
  [{ table: 'documents', insert: documents }],
];

/** One INSERT of some rows of one table. */
export interface Job {
  table: OrganizationTable;
  sql: string;
  rows: readonly [from: number, to: number];
}

const ROWS_PER_JOB = 20_000;

/** Everything to insert for organizations 1 to `organizations`: groups to do in turn, each in any order. */
export function jobs(platform: {
  seed: number;
  organizations: number;
  visits: number;
  firstKeys: FirstKeys;
}): Job[][] {
  const counts = rowsPerOrganization(platform.visits);
  const scopes = Array.from({ length: platform.organizations }, (_, i) => ({
    ...platform,
    organization: i + 1,
    counts,
  }));
  return GROUPS.map((group) =>
    scopes.flatMap((scope) =>
      group.flatMap(({ table, insert }) => {
        const sql = insert(scope);
        return chunksOf(table, counts).map((rows) => ({ table, sql, rows }));
      }),
    ),
  );
}

function chunksOf(table: OrganizationTable, counts: Scope['counts']): [number, number][] {
  // Clients and care plans refer to each other across any boundary: they go in one.
  if (table === 'clients') return [[1, counts.care_plans]];
  const last = table === 'payments' ? counts.invoices : counts[table];
  return Array.from({ length: Math.ceil(last / ROWS_PER_JOB) }, (_, i) => [
    i * ROWS_PER_JOB + 1,
    Math.min(last, (i + 1) * ROWS_PER_JOB),
  ]);
}
