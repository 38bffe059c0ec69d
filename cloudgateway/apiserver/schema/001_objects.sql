-- Every object of every resource. `resource` is `plural` or `plural.group`, `namespace` is empty for cluster scope.
CREATE TABLE objects (
    resource  TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    version   INTEGER NOT NULL,
    value     BLOB NOT NULL,
    UNIQUE (resource, namespace, name)
);
-- One row: resourceVersions up to `reserved` may have been given out.
CREATE TABLE revision (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    reserved INTEGER NOT NULL
);
INSERT INTO revision (one, reserved) VALUES (1, 1);
