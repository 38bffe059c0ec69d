"""Schema of the embedded API's database, one file a version."""
