"""The suite and its peers on the same work: seconds, rows a second, memory, and the ratio between them."""
