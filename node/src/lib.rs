//! The agent: catalogue, control socket, supervision.
