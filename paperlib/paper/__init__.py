"""What the paper shows: its tables, its claims, its figures."""
