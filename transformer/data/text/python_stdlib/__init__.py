"""The embedded corpus: the source of the Python that runs this, as a TFDS dataset."""
