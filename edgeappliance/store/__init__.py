"""The edge's one SQLite file, `edge.db`: a schema version per .sql file, a repository per table family.

Two classes of data live here and never share a transaction (architecture, "State and durability"):
*desired* is written with a full fsync before the call returns, *reported* without one.
"""

from edgeappliance.store.database import open_store, store_identity
from edgeappliance.store.meta import MetaRow, MetaStore
from edgeappliance.store.pods import PodRow, PodStore
from edgeappliance.store.subscriptions import SubscriptionStore
from edgeappliance.store.twins import DeviceRow, StoredDevice, TwinHalf, TwinRow, TwinStore

__all__ = [
    "DeviceRow",
    "MetaRow",
    "MetaStore",
    "PodRow",
    "PodStore",
    "StoredDevice",
    "SubscriptionStore",
    "TwinHalf",
    "TwinRow",
    "TwinStore",
    "open_store",
    "store_identity",
]
