"""One module per gold table, and the kernels they use."""
