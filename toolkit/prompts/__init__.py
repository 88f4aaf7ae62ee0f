"""Prompts: chat messages, chat templates and the conversion of text into token ids."""
