"""Networks that take a noisy input and a time, all with taps and early exit."""
