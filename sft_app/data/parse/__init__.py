"""From a record as it was written to a conversation: its format, its fields, its repairs."""
