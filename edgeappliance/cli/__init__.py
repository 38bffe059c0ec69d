"""edgecore's verbs."""
