"""Distillation: a student that learns what a teacher says, beside what its objective has it learn."""
