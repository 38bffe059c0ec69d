"""The small controllers without which the embedded API would lie about its objects."""
