//! The agent: one per node, as root. It dials the coordinator, says what the node has and holds, and runs
//! the tasks that it is given as containers through containerd. It never decides where a task runs, and it
//! forgets nothing about a task before the coordinator has it on disk.

pub mod assignment;
pub mod attempt;
pub mod config;
pub mod runtime;
