"""What can be wrong with a volume, in the kubelet's words."""

from edgeappliance.kernel.errors import TransientError

FAILED_MOUNT = "FailedMount"
CONFIG_ERROR = "CreateContainerConfigError"


class VolumeError(TransientError):
    """A volume that cannot be provided now. It is tried again: the object or the path may come.

    reason: `FailedMount` (an event; the pod's containers wait in ContainerCreating) or the waiting reason of the one
    container that it concerns (`CreateContainerConfigError`).
    """

    def __init__(self, message: str, *, reason: str = FAILED_MOUNT) -> None:
        super().__init__(message, reason=reason)
        self.reason = reason


def set_up_failed(volume: str, why: str) -> VolumeError:
    """As the kubelet says that a volume could not be made."""
    return VolumeError(f'MountVolume.SetUp failed for volume "{volume}" : {why}')
