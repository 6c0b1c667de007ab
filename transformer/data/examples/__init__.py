"""Examples of tasks: rows of named fields, such as a text and its label."""
