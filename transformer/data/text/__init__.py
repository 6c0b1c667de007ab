"""Text as data: files and TFDS datasets read as documents, cut into token stores and windows."""
