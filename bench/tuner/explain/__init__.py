"""What the measurements mean: the bottleneck, advice on server flags, the verdict in words."""
