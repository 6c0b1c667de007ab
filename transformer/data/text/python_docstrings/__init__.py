"""The embedded pairs: functions of the Python that runs this and what they do, as a TFDS dataset."""
