"""The loop around a method's step, on one device or many."""
