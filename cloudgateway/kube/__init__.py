"""The Kubernetes client of the gateway: typed resources, requests, list+watch, CRD installation."""
