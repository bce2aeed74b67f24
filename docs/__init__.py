"""Pages about the suite, and what writes those that follow from its code."""
