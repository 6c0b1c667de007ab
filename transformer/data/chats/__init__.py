"""Chats as data: conversations with an assistant, read from JSONL, tokenised by a chat template and put into rows."""
