"""cloudgateway's verbs."""
