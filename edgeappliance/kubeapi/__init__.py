"""Kubernetes API machinery: objects, selectors, patches, schemas, tables, discovery, list and watch framing.

Pure: no SQL, no HTTP library, no tasks. The embedded API of cloudgateway and the metaserver of edgecore put
their storage and their transport around it.
"""
