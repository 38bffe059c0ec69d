"""What the wire refuses, and where it stood."""


class WireError(ValueError):
    """Bytes from a peer that are not what the contract allows.

    `field` is the path of the offending part (`header.msg_id`, `twin.temp.actual`, `` for the whole text);
    the text is fit for a log line and for an error reply.
    """

    def __init__(self, reason: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason
