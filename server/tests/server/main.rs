//! The server as its clients see it: started in this process on a free port, or as the real binary, asked over HTTP.

mod answers;
mod backup;
mod bad_input;
mod changes;
mod check;
mod command_line;
mod formats;
mod harness;
mod keys;
mod lifecycle;
mod metrics;
mod nested;
mod openapi;
mod partitions;
mod problems;
mod readme;
mod set_aside;
mod writers;
