//! Simulated drives, clock, randomness and trace.
