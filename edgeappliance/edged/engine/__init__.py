"""The Docker Engine behind our own types: the only home of the package `docker`."""
