"""cloudgateway: fronts the Kubernetes API so that people manage appliances with kubectl."""
