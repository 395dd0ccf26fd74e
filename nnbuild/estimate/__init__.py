"""What a model will take of a microcontroller, judged by its shapes: no calibration data, no compiler, no build."""
