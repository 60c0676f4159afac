"""One run by several processes: they share out the environments and the rows of every batch (`torchrun`)."""
