"""Networks that take the newest frames: which layers run along time, what they keep, and how it begins."""
