//! Runs inside a container as a task does, and tries what must not work there: system calls, sockets, devices,
//! ways out by `/proc`, other tasks, and the counts that all containers share. It prints one line per probe,
//! `name: result`, and judges nothing: what each result must be stands in the test that starts it. A result is
//! the name of an error, `ok`, or what was found.

#![allow(clippy::print_stdout, reason = "what it prints is what it is for")]

mod bounds;
mod calls;
mod files;
mod identity;
mod others;
mod raw;
mod sockets;

use std::fmt::Display;
use std::io;

use nix::errno::Errno;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["all", targets @ ..] => {
            // First, while nothing has been opened.
            files::inherited();
            calls::all();
            sockets::all();
            identity::all();
            files::all();
            others::all(targets);
            bounds::all();
        }
        ["neighbour", gate] => others::neighbour(gate),
        ["child", "compatible"] => say("number", raw::compatible()),
        ["child", "x32"] => say("number", result(&raw::x32())),
        ["child", "kill-init"] => identity::kill_init(),
        ["child", "who"] => identity::who(),
        _ => panic!("usage: sandbox-probe all [KIND NAME VALUE]… | neighbour GATE"),
    }
}

/// One line.
fn say(name: impl Display, result: impl Display) {
    println!("{name}: {result}");
}

/// `ok` or the name of the error.
fn result<T>(result: &Result<T, Errno>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(errno) => format!("{errno:?}"),
    }
}

/// The same for what the standard library did.
fn io_result<T>(result: &io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(code) => format!("{:?}", Errno::from_raw(code)),
            None => format!("{:?}", error.kind()),
        },
    }
}
