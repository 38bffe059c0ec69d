"""The embedded Kubernetes API for a site without a cluster: objects in SQLite, served over TLS.

It is not a cluster and does not pretend to be one: what it does not do is refused with a Status that says so.
"""
