"""edgecore: the edge half of Edge Appliance, and the modules both halves share."""
