//! The driver of a group: io_uring loop, drives, ublk and NBD front ends.
