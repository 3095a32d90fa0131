//! Real-kernel scenarios in virtual machines.
