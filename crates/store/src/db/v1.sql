-- Processes that own something below. Text form of plywood_kernel::ProcessId. AUTOINCREMENT here and below: an id that
-- somebody still remembers never comes to mean another.
CREATE TABLE owners (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    process TEXT NOT NULL UNIQUE
) STRICT;

-- boot: the boot whose first process has compared the directories with the tables.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- layers/<id>/fs. The owner unpacks it, or, when doomed, removes it. AUTOINCREMENT: an id is never used twice, so a stale path cannot name another layer.
CREATE TABLE layers (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    state      TEXT NOT NULL CHECK (state IN ('staging', 'committed', 'doomed')),
    owner      INTEGER REFERENCES owners (id),
    diff_id    TEXT,
    chain_id   TEXT,
    standalone INTEGER,
    size_bytes INTEGER,
    entries    INTEGER,
    max_uid    INTEGER,
    max_gid    INTEGER,
    compressed TEXT,
    CHECK (CASE state WHEN 'staging' THEN owner IS NOT NULL WHEN 'committed' THEN owner IS NULL ELSE 1 END),
    CHECK (state <> 'committed' OR (diff_id IS NOT NULL AND chain_id IS NOT NULL AND standalone IS NOT NULL
        AND size_bytes IS NOT NULL AND entries IS NOT NULL AND max_uid IS NOT NULL AND max_gid IS NOT NULL
        AND compressed IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX layers_standalone ON layers (diff_id) WHERE state = 'committed' AND standalone = 1;
CREATE UNIQUE INDEX layers_in_chain ON layers (chain_id) WHERE state = 'committed' AND standalone = 0;
CREATE INDEX layers_unfinished ON layers (state) WHERE state <> 'committed';

-- flat/<id>/fs
CREATE TABLE flats (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    state      TEXT NOT NULL CHECK (state IN ('building', 'ready', 'doomed')),
    owner      INTEGER REFERENCES owners (id),
    chain_id   TEXT NOT NULL,
    entries    INTEGER NOT NULL DEFAULT 0,
    copied_bytes INTEGER NOT NULL DEFAULT 0,
    CHECK (CASE state WHEN 'building' THEN owner IS NOT NULL WHEN 'ready' THEN owner IS NULL ELSE 1 END)
) STRICT;
CREATE UNIQUE INDEX flats_by_chain ON flats (chain_id) WHERE state <> 'doomed';
CREATE INDEX flats_unfinished ON flats (state) WHERE state <> 'ready';

CREATE TABLE images (
    manifest_digest TEXT PRIMARY KEY,
    config_digest   TEXT NOT NULL,
    media_type      TEXT NOT NULL,
    manifest        BLOB NOT NULL,
    config          BLOB NOT NULL,
    platform        TEXT NOT NULL,
    chain_id        TEXT,
    recorded_ms     INTEGER NOT NULL
) STRICT;
CREATE INDEX images_by_config ON images (config_digest);
CREATE INDEX images_by_chain ON images (chain_id);

CREATE TABLE image_names (
    name  TEXT PRIMARY KEY,
    image TEXT NOT NULL REFERENCES images (manifest_digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_names_by_image ON image_names (image);

-- position 0 is the lowest layer.
CREATE TABLE image_layers (
    image    TEXT NOT NULL REFERENCES images (manifest_digest) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    layer    INTEGER NOT NULL REFERENCES layers (id),
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layers_by_layer ON image_layers (layer);

-- What a living process uses and garbage collection must leave.
CREATE TABLE pin_groups (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    owner INTEGER NOT NULL REFERENCES owners (id)
) STRICT;
CREATE TABLE pins (
    pin_group INTEGER NOT NULL REFERENCES pin_groups (id) ON DELETE CASCADE,
    kind      TEXT NOT NULL CHECK (kind IN ('layer', 'flat', 'image', 'blob')),
    target    TEXT NOT NULL,
    PRIMARY KEY (kind, target, pin_group)
) STRICT, WITHOUT ROWID;
CREATE INDEX pins_by_group ON pins (pin_group);

CREATE TABLE containers (
    id          TEXT PRIMARY KEY,
    name        TEXT UNIQUE,
    image       TEXT NOT NULL REFERENCES images (manifest_digest),
    image_name  TEXT NOT NULL,
    command     TEXT NOT NULL,
    bundle      TEXT NOT NULL,
    mechanism   TEXT NOT NULL,
    lower       TEXT NOT NULL,
    runtime     TEXT NOT NULL,
    auto_remove INTEGER NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('created', 'running', 'exited')),
    supervisor  TEXT NOT NULL,
    process     TEXT,
    exit_code   INTEGER,
    launch_ms   REAL,
    created_ms  INTEGER NOT NULL,
    started_ms  INTEGER,
    finished_ms INTEGER
) STRICT;
CREATE INDEX containers_by_image ON containers (image);
CREATE INDEX containers_unfinished ON containers (state) WHERE state <> 'exited';

-- snapshots/<id>/{fs,work}. unshifted: the upper directory holds ids as the container sees them (the overlay
-- itself is idmapped), so the snapshot can only be mounted by that mechanism again.
CREATE TABLE snapshots (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    owner     INTEGER REFERENCES owners (id),
    container TEXT REFERENCES containers (id) ON DELETE SET NULL,
    unshifted INTEGER NOT NULL
) STRICT;
CREATE INDEX snapshots_by_container ON snapshots (container);
CREATE INDEX snapshots_by_owner ON snapshots (owner);

-- Live id ranges: [start, start + length).
CREATE TABLE leases (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    uid_start  INTEGER NOT NULL,
    uid_length INTEGER NOT NULL,
    gid_start  INTEGER NOT NULL,
    gid_length INTEGER NOT NULL,
    owner      INTEGER REFERENCES owners (id),
    container  TEXT REFERENCES containers (id),
    CHECK (uid_length > 0 AND uid_start >= 0 AND uid_start + uid_length <= 4294967296),
    CHECK (gid_length > 0 AND gid_start >= 0 AND gid_start + gid_length <= 4294967296)
) STRICT;
CREATE UNIQUE INDEX leases_by_uid ON leases (uid_start);
CREATE UNIQUE INDEX leases_by_gid ON leases (gid_start);
CREATE INDEX leases_by_owner ON leases (owner);
CREATE INDEX leases_by_container ON leases (container);

-- Ranges in the table do not overlap, so only the nearest one that starts below the new end can reach into it.
CREATE TRIGGER leases_disjoint BEFORE INSERT ON leases
BEGIN
    SELECT RAISE(ABORT, 'id range overlaps a live one') WHERE
        new.uid_start < (SELECT uid_start + uid_length FROM leases
            WHERE uid_start < new.uid_start + new.uid_length ORDER BY uid_start DESC LIMIT 1)
        OR new.gid_start < (SELECT gid_start + gid_length FROM leases
            WHERE gid_start < new.gid_start + new.gid_length ORDER BY gid_start DESC LIMIT 1);
END;
CREATE TRIGGER leases_fixed BEFORE UPDATE OF uid_start, uid_length, gid_start, gid_length ON leases
BEGIN
    SELECT RAISE(ABORT, 'a lease keeps its range');
END;
