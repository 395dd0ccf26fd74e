"""What lies where in RAM: lifetimes, placement, outputs over inputs, layers row by row, and what a limit costs."""
