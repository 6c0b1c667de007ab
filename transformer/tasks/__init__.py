"""Tasks: jobs that people finish with a model, a file a task: how inputs are prepared, and how answers are read off."""
