//! The one binary: command line, agent and target.

fn main() {}
