"""Receipts of the tests' corpora stay out of a person's cache."""

from tests.data.conftest import home as home
