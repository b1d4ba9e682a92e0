"""Numbers about sets of images. A metric sees arrays and never how they were made."""
