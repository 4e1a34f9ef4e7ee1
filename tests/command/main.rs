//! The `kiln` command from outside: what it prints, how it ends, what it survives.
//!
//! One test program for all, because each one is linked with the whole engine.

mod support;

mod cli;

mod wordcount;

mod bad_input;

mod cluster;

mod failover;

mod takeover;

mod network;

mod endurance;

mod journal;

mod gc;

mod files;

mod frames;

mod functions;

mod map_reduce;

mod external;

mod programs;

mod new;

mod output;

mod sort;

mod outside;

mod examples;

mod tpch;
