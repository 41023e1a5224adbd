//! Process entry: command line in, exit code out.

fn main() {}
