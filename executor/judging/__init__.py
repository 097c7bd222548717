"""What counts as right: verdicts from outputs, from returned values, and from asserts."""
