//! Deterministic simulation of the engine with its checkers.
