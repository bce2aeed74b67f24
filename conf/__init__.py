"""The settings the suite ships with: a package, so that they travel in ``--py-files`` as well."""
