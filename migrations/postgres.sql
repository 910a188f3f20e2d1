-- What a record on PostgreSQL has beside its tables and views, which the revisions make: run before them, each time.
-- The schema flserver has what PostgreSQL lacks of the SQL that is asked of a record, under SQLite's names and to the
-- same answers, and the tables that only servers need which share a database. Whoever asks has the search_path
-- public, flserver, pg_catalog.
CREATE SCHEMA IF NOT EXISTS flserver;

-- --- what servers share ----------------------------------------------------------------------------------------------

-- The end of the chain: whoever appends locks this row first.
CREATE TABLE IF NOT EXISTS flserver.head (
    one BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (one), seq BIGINT NOT NULL, digest TEXT
);
INSERT INTO flserver.head (seq, digest) VALUES (0, NULL) ON CONFLICT DO NOTHING;

-- Who may write a run: whoever takes it over raises its epoch.
CREATE TABLE IF NOT EXISTS flserver.writers (run_id TEXT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL);

-- A copy that was made here and is not verified yet, of what: nobody goes on from it.
CREATE TABLE IF NOT EXISTS flserver.unverified (source TEXT NOT NULL);

CREATE SEQUENCE IF NOT EXISTS flserver.process_ids AS BIGINT MINVALUE 1;

-- --- JSON in columns of text -----------------------------------------------------------------------------------------

-- What JSONB refuses, U+0000 and lone surrogates, as the text of the escape that it was sent as.
CREATE OR REPLACE FUNCTION flserver.escaped(document TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT
RETURN regexp_replace(
    document,
    '(?<!\\)((?:\\\\)*)\\(u0000'
    '|u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])'
    '|(?<!u[dD][89abAB][0-9a-fA-F]{2}\\)u[dD][c-fC-F][0-9a-fA-F]{2})',
    '\1\\\\\2', 'g'
);

-- NULL where it is no JSON.
CREATE OR REPLACE FUNCTION flserver.parsed(document TEXT) RETURNS JSONB LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN document::JSONB;
EXCEPTION WHEN untranslatable_character OR invalid_text_representation THEN
    BEGIN
        RETURN flserver.escaped(document)::JSONB;
    EXCEPTION WHEN OTHERS THEN
        RETURN NULL;
    END;
WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- The same with each number as it was sent: 1e17 is no integer.
CREATE OR REPLACE FUNCTION flserver.parsed_as_sent(document TEXT) RETURNS JSON LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    PERFORM document::JSONB;
    RETURN document::JSON;
EXCEPTION WHEN OTHERS THEN
    RETURN CASE WHEN flserver.parsed(document) IS NOT NULL THEN flserver.escaped(document)::JSON END;
END
$$;

CREATE OR REPLACE FUNCTION flserver.json_valid(document TEXT) RETURNS BOOLEAN LANGUAGE sql IMMUTABLE STRICT
RETURN flserver.parsed(document) IS NOT NULL;

-- What stands at '$.name.name' (or at 'name'): a value, of whichever type it is there.
CREATE OR REPLACE FUNCTION flserver.json_extract(document TEXT, path TEXT) RETURNS JSONB LANGUAGE sql IMMUTABLE STRICT
RETURN NULLIF(flserver.parsed(document) #> string_to_array(regexp_replace(path, '^\$\.', ''), '.'), 'null');

-- The same as text.
CREATE OR REPLACE FUNCTION flserver.json_text(document TEXT, path TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT
RETURN flserver.parsed(document) #>> string_to_array(regexp_replace(path, '^\$\.', ''), '.');

CREATE OR REPLACE FUNCTION flserver.json_text(document TEXT, place INTEGER) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT
RETURN flserver.parsed(document) ->> place;

CREATE OR REPLACE FUNCTION flserver.json_kind(value JSON) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT
RETURN CASE json_typeof(value)
    WHEN 'string' THEN 'text'
    WHEN 'boolean' THEN value::TEXT
    WHEN 'number' THEN CASE WHEN value::TEXT ~ '^-?[0-9]+$' THEN 'integer' ELSE 'real' END
    ELSE json_typeof(value)
END;

-- A number as SQLite has it as text: with 15 digits, where it is no integer of 64 bits.
CREATE OR REPLACE FUNCTION flserver.number_text(number TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT
SET extra_float_digits = 0
RETURN CASE
    WHEN number ~ '^-?[0-9]+$' AND number::NUMERIC BETWEEN -9223372036854775808 AND 9223372036854775807
        THEN number::BIGINT::TEXT
    WHEN abs(number::NUMERIC) > 1.7e308 OR (number::NUMERIC <> 0 AND abs(number::NUMERIC) < 5e-324) THEN number
    ELSE regexp_replace((number::DOUBLE PRECISION + 0)::TEXT, '^(-?[0-9]+)(e|$)', '\1.0\2')
END;

-- The members of an object, or of an array; atom is the value of one that is neither, as text.
CREATE OR REPLACE FUNCTION flserver.json_each(
    document TEXT, OUT key TEXT, OUT value JSONB, OUT type TEXT, OUT atom TEXT
) RETURNS SETOF RECORD LANGUAGE sql IMMUTABLE STRICT AS $$
    WITH whole AS MATERIALIZED (SELECT flserver.parsed_as_sent(document) AS whole),
    members AS (
        SELECT m.key, m.value FROM whole,
            json_each(CASE WHEN json_typeof(whole) = 'object' THEN whole ELSE '{}' END) AS m
        UNION ALL
        SELECT (m.place - 1)::TEXT, m.value FROM whole,
            json_array_elements(CASE WHEN json_typeof(whole) = 'array' THEN whole ELSE '[]' END)
                WITH ORDINALITY AS m (value, place)
    )
    SELECT
        m.key,
        NULLIF(m.value::JSONB, 'null'),
        flserver.json_kind(m.value),
        CASE
            WHEN json_typeof(m.value) = 'number' THEN flserver.number_text(m.value::TEXT)
            WHEN json_typeof(m.value) NOT IN ('object', 'array') THEN m.value #>> '{}'
        END
    FROM members AS m
$$;

-- --- texts, numbers and times ----------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION flserver.hex(value TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT
RETURN upper(encode(convert_to(value, 'UTF8'), 'hex'));

CREATE OR REPLACE FUNCTION flserver.instr(value TEXT, part TEXT) RETURNS INTEGER LANGUAGE sql IMMUTABLE STRICT
RETURN strpos(value, part);

CREATE OR REPLACE FUNCTION flserver.round(value DOUBLE PRECISION, digits INTEGER) RETURNS DOUBLE PRECISION
LANGUAGE sql IMMUTABLE STRICT
RETURN pg_catalog.round(value::TEXT::NUMERIC, digits)::DOUBLE PRECISION;

-- Days since noon in Greenwich on 24 November 4714 B.C., of a time as it stands on record; milliseconds count.
CREATE OR REPLACE FUNCTION flserver.julianday(at TEXT) RETURNS DOUBLE PRECISION LANGUAGE sql IMMUTABLE STRICT
RETURN (
    (substr(at, 1, 10)::DATE - DATE '1970-01-01')::BIGINT * 86400000 + substr(at, 12, 2)::BIGINT * 3600000
    + substr(at, 15, 2)::BIGINT * 60000 + floor(rtrim(substr(at, 18), 'Z')::DOUBLE PRECISION * 1000 + 0.5)::BIGINT
    + 210866760000000
) / 86400000.0::DOUBLE PRECISION;

CREATE OR REPLACE FUNCTION flserver.same(value TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT RETURN value;

DO $$
BEGIN
    IF to_regoperator('flserver.->>(text,text)') IS NULL THEN
        CREATE OPERATOR flserver.->> (LEFTARG = TEXT, RIGHTARG = TEXT, FUNCTION = flserver.json_text);
        CREATE OPERATOR flserver.->> (LEFTARG = TEXT, RIGHTARG = INTEGER, FUNCTION = flserver.json_text);
        CREATE OPERATOR flserver.+ (RIGHTARG = TEXT, FUNCTION = flserver.same);
    END IF;
END
$$;

-- --- sums and the like -----------------------------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION flserver.plus(so_far BIGINT, value BOOLEAN) RETURNS BIGINT LANGUAGE sql IMMUTABLE
RETURN CASE WHEN value IS NULL THEN so_far ELSE COALESCE(so_far, 0) + value::INTEGER END;

CREATE OR REPLACE FUNCTION flserver.joined(so_far TEXT, value TEXT, separator TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE
RETURN CASE WHEN value IS NULL THEN so_far WHEN so_far IS NULL THEN value ELSE so_far || separator || value END;

CREATE OR REPLACE FUNCTION flserver.joined(so_far TEXT, value TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE
RETURN flserver.joined(so_far, value, ',');

CREATE OR REPLACE FUNCTION flserver.counted(sums DOUBLE PRECISION[], value BIGINT) RETURNS DOUBLE PRECISION[]
LANGUAGE sql IMMUTABLE STRICT
RETURN float8_accum(sums, value::DOUBLE PRECISION);

-- PostgreSQL's own are NUMERIC, or are not there for truth values.
CREATE OR REPLACE AGGREGATE flserver.sum(BIGINT) (SFUNC = int8pl, STYPE = BIGINT, PARALLEL = SAFE);
CREATE OR REPLACE AGGREGATE flserver.sum(BOOLEAN) (SFUNC = flserver.plus, STYPE = BIGINT);
CREATE OR REPLACE AGGREGATE flserver.avg(BIGINT) (
    SFUNC = flserver.counted, STYPE = DOUBLE PRECISION[], FINALFUNC = float8_avg, INITCOND = '{0,0,0}'
);
CREATE OR REPLACE AGGREGATE flserver.max(BOOLEAN) (SFUNC = boolor_statefunc, STYPE = BOOLEAN);
CREATE OR REPLACE AGGREGATE flserver.min(BOOLEAN) (SFUNC = booland_statefunc, STYPE = BOOLEAN);
CREATE OR REPLACE AGGREGATE flserver.group_concat(TEXT) (SFUNC = flserver.joined, STYPE = TEXT);
CREATE OR REPLACE AGGREGATE flserver.group_concat(TEXT, TEXT) (SFUNC = flserver.joined, STYPE = TEXT);
