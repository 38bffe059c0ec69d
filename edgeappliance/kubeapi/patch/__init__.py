"""The three patch formats of the API as pure functions: value and patch in, new value out."""
