"""Examples: where they come from, how they are cleaned, divided and preprocessed."""
