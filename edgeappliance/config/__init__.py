"""edgecore's settings: typed, every key documented; the loader is kernel's."""
