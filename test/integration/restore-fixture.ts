import { defineEntity } from '../../src/source/entity.ts';
import type { EntityDefinition } from '../../src/types/entity.ts';

const O1 = "'00000000-0000-4000-8000-000000000001'";
const O2 = "'00000000-0000-4000-8000-000000000002'";

/** A platform with one of everything that a restore has to put back. */
export const FIXTURE = `
  CREATE SCHEMA care; SET search_path = care;
  CREATE TYPE mood AS ENUM ('low', 'O''k', 'high');
  CREATE DOMAIN positive AS int CHECK (VALUE > 0);
  CREATE TYPE address AS (street text COLLATE "C", moods mood[], n positive, amount numeric(8,2));
  CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = spanmulti);
  CREATE DOMAIN code AS text;
  CREATE SEQUENCE shared_numbers START 1000 INCREMENT 5;
  CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)';

  CREATE TABLE org (id uuid PRIMARY KEY, name text NOT NULL);
  INSERT INTO org VALUES (${O1}, 'One'), (${O2}, 'Two');

  CREATE TABLE "Client" (
    id bigserial PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES org,
    "full Name" text COLLATE "C" NOT NULL,
    feeling mood DEFAULT 'high', home address, spans span[], "window" spanmulti, code code,
    number int DEFAULT nextval('shared_numbers'),
    shouted text GENERATED ALWAYS AS (shout("full Name")) STORED,
    bits bytea, detail jsonb, price numeric, born date, seen timestamptz, f float8, f4 float4, iv interval,
    x xml, m money, ip inet, tags text[][], c char(5), v bit varying(7), t time with time zone, r regclass,
    best_friend bigint,
    CONSTRAINT name_given CHECK ("full Name" <> ''),
    UNIQUE (organization_id, number) DEFERRABLE INITIALLY DEFERRED
  ) WITH (fillfactor = 80);
  CREATE INDEX client_lower ON "Client" (lower("full Name"), feeling DESC) INCLUDE (id) WHERE price IS NOT NULL;
  CREATE INDEX client_detail ON "Client" USING gin (detail jsonb_path_ops);
  ALTER TABLE "Client" ADD CONSTRAINT friends FOREIGN KEY (best_friend) REFERENCES "Client" DEFERRABLE;
  INSERT INTO "Client" (organization_id, "full Name", feeling, home, spans, "window", code, bits, detail, price, born, seen, f, f4, iv, x, m, ip, tags, c, v, t, r)
  SELECT ${O1}, 'Name ' || i || E' \\\\ \\t \\n \\r ä€😀', (ARRAY['low','O''k','high'])[1 + i % 3]::mood,
         ROW('s, "' || i, ARRAY['low']::mood[], i, 1.50)::address, ARRAY[span(0.1, i), 'empty'], spanmulti(span(1, 2), span(3, i + 4)),
         'code ' || i, decode('00ff0a5c', 'hex'), '{"a": [1, null, "\\\\n"]}', 1.10 / i, '0044-03-15 BC'::date + i, 'infinity',
         0.1 + 0.2, 1e-30, '-1 year 2 days 00:00:00.000001', '<a>b</a>', 12.34, '10.0.0.1/8', '{{a,NULL},{"NULL",""}}', 'ab', B'101', '12:00+02', 'pg_class'
    FROM generate_series(1, 500) i;
  INSERT INTO "Client" (organization_id, "full Name") VALUES (${O1}, E'\\\\.'), (${O1}, 'NULL'), (${O1}, repeat('large ', 400000));
  UPDATE "Client" SET best_friend = 1 + id % 400;
  ALTER TABLE "Client" ADD CONSTRAINT never_checked CHECK (price < 1.05) NOT VALID;
  ALTER DOMAIN code ADD CONSTRAINT short CHECK (length(VALUE) < 3) NOT VALID;

  CREATE TABLE visit (
    id bigint GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT 10), organization_id uuid NOT NULL, day date NOT NULL, region text NOT NULL,
    client bigint REFERENCES "Client" ON DELETE CASCADE, note text DEFAULT 'none', twice bigint GENERATED ALWAYS AS (id * 2) STORED,
    PRIMARY KEY (id, day, region), CONSTRAINT noted CHECK (note <> '')
  ) PARTITION BY RANGE (day);
  CREATE INDEX visit_client ON visit (client);
  CREATE TABLE visit_2025 PARTITION OF visit FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (region);
  CREATE TABLE visit_2025_n PARTITION OF visit_2025 FOR VALUES IN ('n', 'w');
  CREATE TABLE visit_2025_rest PARTITION OF visit_2025 DEFAULT;
  CREATE TABLE visit_other (note text DEFAULT 'other', region text NOT NULL, gone int, day date NOT NULL, client bigint, organization_id uuid NOT NULL, id bigint NOT NULL,
                            twice bigint GENERATED ALWAYS AS (id * 2) STORED);
  ALTER TABLE visit_other DROP COLUMN gone, ADD CONSTRAINT noted CHECK (note <> '');
  ALTER TABLE visit ATTACH PARTITION visit_other DEFAULT;
  CREATE INDEX visit_rest_note ON visit_2025_rest (note);
  INSERT INTO visit (organization_id, day, region, client, note)
  SELECT ${O1}, '2024-06-01'::date + i, (ARRAY['n', 'w', 's'])[1 + i % 3], 1 + i % 500, 'note ' || i FROM generate_series(1, 800) i;

  CREATE TABLE hen (id int PRIMARY KEY, organization_id uuid, egg int NOT NULL);
  CREATE TABLE egg (id int PRIMARY KEY, organization_id uuid, hen int NOT NULL REFERENCES hen DEFERRABLE INITIALLY DEFERRED);
  ALTER TABLE hen ADD CONSTRAINT egg_fk FOREIGN KEY (egg) REFERENCES egg DEFERRABLE INITIALLY DEFERRED;
  BEGIN; INSERT INTO hen SELECT i, ${O1}, i % 10 FROM generate_series(0, 9) i; INSERT INTO egg SELECT i, ${O1}, 9 - i FROM generate_series(0, 9) i; COMMIT;

  CREATE TABLE pair (a int, b text, organization_id uuid, during tsrange, outside int, PRIMARY KEY (b, a), EXCLUDE USING gist (during WITH &&));
  CREATE TABLE of_pair (id int PRIMARY KEY, organization_id uuid, pair_a int, pair_b text, FOREIGN KEY (pair_b, pair_a) REFERENCES pair (b, a) MATCH FULL);
  INSERT INTO pair SELECT i, 'b', ${O1}, tsrange(now()::timestamp + i * interval '1 day', now()::timestamp + (i + 1) * interval '1 day') FROM generate_series(1, 20) i;
  INSERT INTO of_pair SELECT i, ${O1}, NULLIF(i, 3), CASE WHEN i <> 3 THEN 'b' END FROM generate_series(1, 20) i;

  CREATE TABLE outsider (id int PRIMARY KEY);
  INSERT INTO outsider VALUES (1);
  ALTER TABLE pair ADD CONSTRAINT to_outside FOREIGN KEY (outside) REFERENCES outsider;

  CREATE TABLE derived (organization_id uuid GENERATED ALWAYS AS (${O1}::uuid) STORED, id int GENERATED ALWAYS AS (7) STORED PRIMARY KEY);
  INSERT INTO derived DEFAULT VALUES;
  CREATE TABLE empty (id int PRIMARY KEY, organization_id uuid);
  CREATE UNLOGGED TABLE volatile (id smallserial PRIMARY KEY, organization_id uuid);
  INSERT INTO volatile (organization_id) VALUES (${O1}), (${O1});

  CREATE TABLE guarded (id int PRIMARY KEY, organization_id uuid, secret text);
  INSERT INTO guarded SELECT i, ${O1}, 's' || i FROM generate_series(1, 5) i;
  ALTER TABLE guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
  RESET search_path;
`;

const entity = (type: string, table: string, key?: string[]): EntityDefinition =>
  defineEntity({
    type,
    table,
    schema: 'care',
    organization: 'organization_id',
    ...(key === undefined ? {} : { key }),
  });

export const ENTITIES: readonly EntityDefinition[] = [
  defineEntity({ type: 'ORGANIZATION', table: 'org', schema: 'care', organization: 'id' }),
  entity('CLIENT', 'Client'),
  entity('VISIT', 'visit'),
  entity('HEN', 'hen'),
  entity('EGG', 'egg'),
  entity('PAIR', 'pair'),
  entity('OF_PAIR', 'of_pair'),
  entity('DERIVED', 'derived'),
  entity('EMPTY', 'empty'),
  entity('VOLATILE', 'volatile'),
  entity('GUARDED', 'guarded'),
];
