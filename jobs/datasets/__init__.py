"""One module per dataset: its columns, key and rules."""
