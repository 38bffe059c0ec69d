"""Device and DeviceModel objects merged into typed device specifications. Pure: no I/O, no clock."""

from edgeappliance.devicemodel.catalogue import Catalogue, CatalogueChange
from edgeappliance.devicemodel.merge import merge
from edgeappliance.devicemodel.spec import (
    Access,
    DeviceInvalid,
    DeviceSpec,
    FieldError,
    PropertySpec,
    PropertyType,
)

__all__ = [
    "Access",
    "Catalogue",
    "CatalogueChange",
    "DeviceInvalid",
    "DeviceSpec",
    "FieldError",
    "PropertySpec",
    "PropertyType",
    "merge",
]
