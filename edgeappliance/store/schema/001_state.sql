-- The edge's state: what the cloud wants (desired) and what the field says (reported).
-- Modelled on KubeEdge's edgecore.db (reference 5), in a file of our own: a version number per half
-- and the last version that the cloud acknowledged replace upstream's JSON texts and its confirm map.

-- What the cloud wants of this node. key = resource as on the wire, <ns>/<type>/<name>.
CREATE TABLE meta (
    key              TEXT PRIMARY KEY NOT NULL,
    type             TEXT NOT NULL,
    uid              TEXT NOT NULL DEFAULT '',
    resource_version TEXT NOT NULL DEFAULT '',
    value            BLOB NOT NULL
);
CREATE INDEX meta_by_type ON meta (type, key);

CREATE TABLE device (
    id            TEXT PRIMARY KEY NOT NULL,   -- <namespace>/<name>
    name          TEXT NOT NULL,
    description   TEXT NOT NULL DEFAULT '',
    state         TEXT NOT NULL DEFAULT '',
    last_online   TEXT NOT NULL DEFAULT '',
    state_version INTEGER NOT NULL DEFAULT 0,  -- dirty while newer than state_acked
    state_acked   INTEGER NOT NULL DEFAULT 0,
    attributes    TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;

-- One row per property; clustered by device so that a device's changes share pages.
-- NULL value = the half is empty; NULL version = the half never existed.
CREATE TABLE device_twin (
    device_id         TEXT NOT NULL,
    name              TEXT NOT NULL,
    type              TEXT NOT NULL DEFAULT 'string',  -- 'deleted' marks a tombstone
    optional          INTEGER NOT NULL DEFAULT 1,
    metadata          TEXT NOT NULL DEFAULT '',
    expected          TEXT,
    expected_metadata TEXT NOT NULL DEFAULT '',
    expected_cloud    INTEGER,
    expected_edge     INTEGER,
    expected_acked    INTEGER NOT NULL DEFAULT 0,
    actual            TEXT,
    actual_metadata   TEXT NOT NULL DEFAULT '',
    actual_cloud      INTEGER,
    actual_edge       INTEGER,
    actual_acked      INTEGER NOT NULL DEFAULT 0,
    desired_applied   TEXT,                            -- last spec.properties[].desired.value taken over
    PRIMARY KEY (device_id, name)
) WITHOUT ROWID;

-- MQTT topics that rules of the cloud subscribed to.
CREATE TABLE sub_topic (
    topic TEXT PRIMARY KEY NOT NULL
) WITHOUT ROWID;

-- Names this very file: the cloud of this project learns from another name that a node lost what it had.
CREATE TABLE identity (
    id TEXT NOT NULL
);
INSERT INTO identity (id) VALUES (lower(hex(randomblob(16))));
