//! The program `teamster`.
fn main() {}
