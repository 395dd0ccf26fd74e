"""What a linked image consists of, and whether it may be as large as it is."""
