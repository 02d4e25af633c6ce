"""Command lines and settings: what a user writes, read once and checked. No framework is imported here."""
